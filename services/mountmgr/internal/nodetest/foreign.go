package nodetest

import (
	"encoding/json"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

// StartForeignMount makes volume name as the existing driver has it on a node:
// PersistentVolume, Secret, a privileged mount pod with a script, and the mount
// at the target. The driver itself is gone: only its socket file is left. changes
// are made to the pod first.
func (n *Node) StartForeignMount(name, image, target string, changes ...func(*corev1.Pod)) *corev1.Pod {
	n.tb.Helper()
	exchange, mountPath := filepath.Join(n.ExchangeDir(), name+"-uuid"), filepath.Join(n.MountRoot(), name+"-abcdef")
	for _, dir := range []string{exchange, mountPath, target} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as the existing driver does
			n.tb.Fatal(err)
		}
	}
	n.leaveSocket(filepath.Join(exchange, "fuse_fd_csi_comm.sock"))
	n.createForeignObjects(name)
	built := n.foreignPod(name, image, target)
	for _, change := range changes {
		change(built)
	}
	pod, err := n.Kubelet.Client.CoreV1().Pods(Namespace).Create(n.tb.Context(), built, metav1.CreateOptions{})
	if err != nil {
		n.tb.Fatal(err)
	}
	n.Eventually("the client of the existing driver serves", func() error {
		minor, err := kernelmount.Minor(mountPath)
		if err != nil {
			return err
		}
		if _, err := n.Command("stat", mountPath); err != nil {
			return err
		}
		return kernelmount.Attach(mountPath, minor, target, false)
	})
	data, err := json.Marshal(map[string]string{"volumeHandle": name, "driverName": "csi.juicefs.com"})
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(target), "vol_data.json"), data, 0o600)
	}
	if err != nil {
		n.tb.Fatal(err)
	}
	n.reportRunning(pod)
	return pod
}

// leaveSocket makes a socket file that nobody listens on.
func (n *Node) leaveSocket(path string) {
	n.tb.Helper()
	if err := unix.Mknod(path, unix.S_IFSOCK|0o600, 0); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *Node) createForeignObjects(name string) {
	n.tb.Helper()
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	volume.Spec.CSI = &corev1.CSIPersistentVolumeSource{
		Driver: "csi.juicefs.com", VolumeHandle: name, VolumeAttributes: n.Attributes(),
	}
	if _, err := n.Kubelet.Client.CoreV1().PersistentVolumes().Create(n.tb.Context(), volume, metav1.CreateOptions{}); err != nil {
		n.tb.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "juicefs-" + name + "-secret", Namespace: Namespace},
		Data:       map[string][]byte{"metaurl": []byte(n.Secret("test")["metaurl"]), "check_mount.sh": []byte("exit 0")},
	}
	if _, err := n.Kubelet.Client.CoreV1().Secrets(Namespace).Create(n.tb.Context(), secret, metav1.CreateOptions{}); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *Node) foreignPod(name, image, target string) *corev1.Pod {
	secret := n.Secret("test")
	script := "/usr/local/bin/juicefs format --storage=file --bucket=" + secret["bucket"] + " --trash-days=0 ${metaurl} test\n" +
		"exec /bin/mount.juicefs ${metaurl} /jfs/" + name + "-abcdef -o metrics=0.0.0.0:0,cache-dir=" + n.path("cache") +
		",no-usage-report"
	yes, both := true, corev1.MountPropagationBidirectional
	hostPath := func(name, path string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "juicefs-node-" + name + "-abcdef", Namespace: Namespace, Finalizers: []string{"juicefs.com/finalizer"},
			Labels: map[string]string{
				"app.kubernetes.io/name": "juicefs-mount", "volume-id": name, "juicefs-hash": "h4sh", "juicefs-upgrade-uuid": name + "-uuid",
			},
			Annotations: map[string]string{"juicefs-uniqueid": name, mountpod.ReferenceKey(target): target},
		},
		Spec: corev1.PodSpec{
			NodeName: "node", RestartPolicy: corev1.RestartPolicyOnFailure,
			Volumes: []corev1.Volume{
				hostPath("jfs-dir", n.MountRoot()), hostPath("jfs-fuse-fd", filepath.Join(n.ExchangeDir(), name+"-uuid")),
				hostPath("hostpath-0", n.path("data")), hostPath("cachedir-0", n.path("cache")),
			},
			Containers: []corev1.Container{{
				Name: "jfs-mount", Image: image, Command: []string{"sh", "-c", script},
				SecurityContext: &corev1.SecurityContext{Privileged: &yes},
				Env: []corev1.EnvVar{
					{Name: "JFS_FOREGROUND", Value: "1"}, {Name: "JFS_INSIDE_CONTAINER", Value: "1"},
					{Name: "JFS_SUPER_COMM", Value: "/tmp/fuse_fd_csi_comm.sock"},
				},
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "juicefs-" + name + "-secret"},
				}}},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "jfs-dir", MountPath: "/jfs", MountPropagation: &both}, {Name: "jfs-fuse-fd", MountPath: "/tmp"},
					{Name: "hostpath-0", MountPath: n.path("data")}, {Name: "cachedir-0", MountPath: n.path("cache")},
				},
			}},
		},
	}
}

func (n *Node) reportRunning(pod *corev1.Pod) {
	n.tb.Helper()
	running := pod.DeepCopy()
	running.Status.Phase = corev1.PodRunning
	if _, err := n.Kubelet.Client.CoreV1().Pods(Namespace).UpdateStatus(n.tb.Context(), running, metav1.UpdateOptions{}); err != nil {
		n.tb.Fatal(err)
	}
}
