//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/test/local"
)

// predecessor is the existing driver on node-1, as far as a node sees it: a
// plugin at kubelet, and a mount pod that it would have made.
type predecessor struct {
	*scene
	volume, mount, fdDir string
}

// TestAVolumeOfTheExistingDriverMovesOverAndBack runs a writer on a volume of the
// existing driver, replaces that driver by this one, and goes back.
func TestAVolumeOfTheExistingDriverMovesOverAndBack(t *testing.T) {
	s := newScene(t)
	fs := s.redis(2)
	volume := s.static(fs, "data", nil)
	p := &predecessor{scene: s, volume: volume.Name, mount: volume.Name + "-abcdef", fdDir: "/var/run/juicefs-csi/" + volume.Name}
	s.must(local.Uninstall(s.ctx, env.cluster, env.helm))
	s.Cleanup(func() { s.install() })
	s.driverGone()
	stop := p.start()
	p.makeMountPod(s.secretOf(fs))
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	p.annotate(path.Join(podDir(s.pod("writer")), "kubernetes.io~csi", volume.Name, "mount"))
	s.advances("writer")
	old := s.theMountPod(volume.Name)
	stop()

	s.install("mountmgr.migration=true")
	s.advances("writer")
	s.app("second", "data", onNode("node-1"))
	s.running("second")
	if line, err := s.exec("second", "head", "-n", "1", "/data/log"); err != nil || line != "0\n" {
		t.Errorf("a pod that this driver serves reads %q of the writer, %v", line, err)
	}
	if s.theMountPod(volume.Name).UID != old.UID {
		t.Error("the mount pod of the existing driver was not kept")
	}
	// An upgrade of the mount ends the privilege of its client.
	s.upgrade("node-1", volume.Name)
	s.advances("writer")
	s.unprivileged(s.theMountPod(volume.Name))

	p.movesBack()
	s.wroteEverything("writer")
	s.deleteApp("second")
	s.deleteApp("writer")
	s.nothingLeft(volume.Name)
}

// movesBack makes the mount one of the existing driver again, removes this
// driver, and lets it find what it has left.
func (p *predecessor) movesBack() {
	p.Helper()
	p.install("mountmgr.mountPods=classic")
	p.upgrade("node-1", p.volume)
	p.advances("writer")
	pod := p.theMountPod(p.volume)
	if privileged := pod.Spec.Containers[0].SecurityContext.Privileged; privileged == nil || !*privileged ||
		pod.Labels["juicefs-upgrade-uuid"] == "" || pod.Annotations["juicefs-uniqueid"] != p.volume {
		p.Errorf("the existing driver would not take mount pod %s with the labels %v for its own", pod.Name, pod.Labels)
	}
	p.must(local.Uninstall(p.ctx, env.cluster, env.helm))
	p.driverGone()
	p.advances("writer")
	p.install("mountmgr.migration=true")
	p.advances("writer")
}

// driverGone waits until no pod of the driver listens at its sockets any more:
// helm waits for DaemonSets, and not for their pods.
func (s *scene) driverGone() {
	s.Helper()
	s.eventually("the pods of the driver have ended", func() error {
		pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=juicefs-csi-driver",
		})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%s has not", pods.Items[0].Name)
		}
		return err
	})
}

// start registers the driver and runs the stand-in in the node's namespaces; the
// returned function does what uninstalling it does.
func (p *predecessor) start() (stop func()) {
	p.Helper()
	attach, drivers := false, env.kube.StorageV1().CSIDrivers()
	// Without it kubelet waits for somebody to attach the volume.
	_, err := drivers.Create(p.ctx, &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{AttachRequired: &attach},
	}, metav1.CreateOptions{})
	p.must(err)
	program := filepath.Join(env.dataDir, "predecessor")
	build := exec.CommandContext(p.ctx, "go", "build", "-o", program, "./test/e2e/predecessor")
	build.Dir, build.Env = env.tree.Root, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		p.Fatalf("build the predecessor: %v\n%s", err, output)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := env.cluster.NodeOutput(ctx, "node-1", program, "--node=node-1",
			"--mount=/var/lib/juicefs/volume/"+p.mount, "--keeper="+p.fdDir+"/fuse_fd_csi_comm.sock")
		if ctx.Err() == nil {
			p.Errorf("the stand-in for the existing driver ended by itself: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := drivers.Delete(context.WithoutCancel(p.ctx), driverName, metav1.DeleteOptions{}); err != nil {
			p.Errorf("remove the driver's registration: %v", err)
		}
	})
	p.Cleanup(stop)
	return stop
}

// makeMountPod makes the Secret and the pod as the existing driver does.
func (p *predecessor) makeMountPod(secret map[string]string) {
	p.Helper()
	// A client whose descriptor is kept by others does not make its mount point.
	p.must(env.cluster.NodeExec(p.ctx, "node-1", quiet(), "mkdir", "-p", "/var/lib/juicefs/volume/"+p.mount))
	name := "juicefs-" + p.volume + "-secret"
	_, err := env.kube.CoreV1().Secrets(local.Namespace).Create(p.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"juicefs/secret": "true"}},
		StringData: secret,
	}, metav1.CreateOptions{})
	p.must(err)
	p.Cleanup(func() { _ = env.kube.CoreV1().Secrets(local.Namespace).Delete(p.ctx, name, metav1.DeleteOptions{}) })
	pods := env.kube.CoreV1().Pods(local.Namespace)
	pod, err := pods.Create(p.ctx, p.mountPod(name, secret), metav1.CreateOptions{})
	p.must(err)
	p.Cleanup(func() { // Nobody else does when the test has failed.
		_, _ = pods.Patch(p.ctx, pod.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		_ = pods.Delete(p.ctx, pod.Name, metav1.DeleteOptions{})
	})
	p.eventually("the mount pod of the existing driver serves", func() error {
		line := " /var/lib/juicefs/volume/" + p.mount + " .*fuse.juicefs"
		return env.cluster.NodeExec(p.ctx, "node-1", quiet(), "grep", "-q", line, "/proc/self/mountinfo")
	})
}

func (p *predecessor) mountPod(secretName string, secret map[string]string) *corev1.Pod {
	privileged, both := true, corev1.MountPropagationBidirectional
	create := corev1.HostPathDirectoryOrCreate
	script := strings.Join([]string{
		"/usr/local/bin/juicefs format --storage=" + secret["storage"] + " --bucket=" + secret["bucket"] + " ${metaurl} " + secret["name"],
		"exec /bin/mount.juicefs ${metaurl} /jfs/" + p.mount + " -o metrics=0.0.0.0:9567,cache-dir=/var/jfsCache",
	}, "\n")
	hostPath := func(name, directory string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: directory, Type: &create},
		}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "juicefs-node-1-" + p.volume + "-abcdef",
			Labels: map[string]string{
				"app.kubernetes.io/name": "juicefs-mount", "volume-id": p.volume,
				"juicefs-hash": "0123456789abcdef", "juicefs-upgrade-uuid": filepath.Base(p.fdDir),
			},
			Annotations: map[string]string{"juicefs-uniqueid": p.volume, "juicefs-uuid": secret["name"]},
			Finalizers:  []string{"juicefs.com/finalizer"},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-1", RestartPolicy: corev1.RestartPolicyOnFailure, Hostname: "existing",
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: "jfs-mount", Image: local.DefaultClient, Command: []string{"sh", "-c", script},
				SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: secretName},
				}}},
				Env: []corev1.EnvVar{
					{Name: "JFS_FOREGROUND", Value: "1"}, {Name: "JFS_INSIDE_CONTAINER", Value: "1"},
					{Name: "JFS_SUPER_COMM", Value: "/tmp/fuse_fd_csi_comm.sock"},
				},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "jfs-dir", MountPath: "/jfs", MountPropagation: &both},
					{Name: "jfs-fuse-fd", MountPath: "/tmp"},
					{Name: "cachedir-0", MountPath: "/var/jfsCache"},
					{Name: "data", MountPath: env.dataDir},
				},
			}},
			Volumes: []corev1.Volume{
				hostPath("jfs-dir", "/var/lib/juicefs/volume"), hostPath("jfs-fuse-fd", p.fdDir),
				hostPath("cachedir-0", "/var/jfsCache"), hostPath("data", env.dataDir),
			},
		},
	}
}

// annotate records a reference as the existing driver does.
func (p *predecessor) annotate(target string) {
	p.Helper()
	sum := sha256.Sum256([]byte(target))
	key := ("juicefs-" + hex.EncodeToString(sum[:]))[:63]
	pods := env.kube.CoreV1().Pods(local.Namespace)
	pod, err := pods.Get(p.ctx, p.theMountPod(p.volume).Name, metav1.GetOptions{})
	p.must(err)
	pod.Annotations[key] = target
	_, err = pods.Update(p.ctx, pod, metav1.UpdateOptions{})
	p.must(err)
}
