package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	loadImageName = "juicefs-csi/bench-load:v1"
	secretName    = "file-system"
	driverName    = "csi.juicefs.com"
	// mountPods selects those that serve a mount.
	mountPods = "app.kubernetes.io/name=juicefs-mount,!" + local.SpareLabel
	// metadataNumber is the database of the cluster's Redis that is used.
	metadataNumber = 7
)

// loadImage builds the program of the application pods into an image of its
// own and loads it onto the node.
func (b *bench) loadImage(ctx context.Context) error {
	b.program = filepath.Join(b.dataDir, "load")
	archive := b.program + ".tar"
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.program, "./test/bench/load")
	build.Dir, build.Env = b.tree.Root, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the load: %w: %s", err, bytes.TrimSpace(output))
	}
	var content bytes.Buffer
	image := devcluster.Image{Name: loadImageName, Files: map[string]string{"/load": b.program}, Dirs: []string{"/data"}}
	if err := image.Write(&content); err != nil {
		return err
	}
	if err := os.WriteFile(archive, content.Bytes(), 0o600); err != nil {
		return fmt.Errorf("build the load: %w", err)
	}
	return b.cluster.LoadImage(ctx, archive, node)
}

// fileSystem makes the Secret of a file system with metadata in Redis and data
// on the machine's disk. All volumes are of this file system, each with a
// mount of its own.
func (b *bench) fileSystem(ctx context.Context) error {
	if err := local.FlushRedis(ctx, metadataNumber); err != nil {
		return err
	}
	_, err := b.kube.CoreV1().Secrets(b.namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName},
		StringData: local.RedisSecret(b.namespace, metadataNumber, b.dataDir),
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make secret: %w", err)
	}
	return nil
}

// volumes makes PersistentVolumes by hand and claims of the same names, and
// waits until they are bound. A claim is made only when the controller knows
// its volume, because otherwise it waits for the next resync of 15 s.
func (b *bench) volumes(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := b.kube.CoreV1().PersistentVolumes().Create(ctx, b.newVolume(name), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make volume %s: %w", name, err)
		}
	}
	for _, name := range names {
		if err := until(ctx, "volume "+name+" is known", func() error { return b.volumeKnown(ctx, name) }); err != nil {
			return err
		}
	}
	for _, name := range names {
		_, err := b.kube.CoreV1().PersistentVolumeClaims(b.namespace).Create(ctx, b.newClaim(name), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("make claim %s: %w", name, err)
		}
	}
	for _, name := range names {
		if err := until(ctx, "claim "+name+" is bound", func() error { return b.claimBound(ctx, name) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) volumeKnown(ctx context.Context, name string) error {
	volume, err := b.kube.CoreV1().PersistentVolumes().Get(ctx, b.volumeID(name), metav1.GetOptions{})
	if err == nil && volume.Status.Phase != corev1.VolumeAvailable {
		err = fmt.Errorf("it is %s", volume.Status.Phase)
	}
	return err
}

func (b *bench) claimBound(ctx context.Context, name string) error {
	claim, err := b.kube.CoreV1().PersistentVolumeClaims(b.namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil && claim.Status.Phase != corev1.ClaimBound {
		err = fmt.Errorf("it is %s", claim.Status.Phase)
	}
	return err
}

func (b *bench) newVolume(name string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: b.volumeID(name), Labels: map[string]string{"bench": b.namespace}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Ti")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: b.volumeID(name), FSType: "juicefs",
				VolumeAttributes:     map[string]string{"juicefs/host-path": b.dataDir},
				NodePublishSecretRef: &corev1.SecretReference{Name: secretName, Namespace: b.namespace},
			}},
		},
	}
}

func (b *bench) newClaim(name string) *corev1.PersistentVolumeClaim {
	class := ""
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: b.volumeID(name),
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Ti")},
			},
		},
	}
}

func (b *bench) volumeID(name string) string { return b.namespace + "-" + name }

// newApp is a pod that runs the load, with a claim unless that is empty.
func (*bench) newApp(name, claim string, args ...string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name, "claim": claim}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			NodeSelector:  map[string]string{corev1.LabelHostname: node},
			Containers:    []corev1.Container{{Name: "app", Image: loadImageName, Command: append([]string{"/load"}, args...)}},
		},
	}
	if claim != "" {
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
	return pod
}

// startApp makes a pod, with a claim unless that is empty, and returns when its
// process runs. The time is that just before the request to make the pod.
func (b *bench) startApp(ctx context.Context, name, claim string, args ...string) (created time.Time, err error) {
	pod := b.newApp(name, claim, args...)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := b.kube.CoreV1().Pods(b.namespace)
	events, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return created, fmt.Errorf("watch pod %s: %w", name, err)
	}
	defer events.Stop()
	created = time.Now()
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return created, fmt.Errorf("make pod %s: %w", name, err)
	}
	for event := range events.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok || pod.Status.Phase == corev1.PodFailed || event.Type == watch.Deleted {
			break
		}
		if pod.Status.Phase == corev1.PodRunning {
			return created, nil
		}
	}
	return created, errors.Join(fmt.Errorf("pod %s does not run", name), ctx.Err())
}

func (b *bench) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	pod, err := b.kube.CoreV1().Pods(b.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find pod %s: %w", name, err)
	}
	return pod, nil
}

// stamp is the time that a pod's process printed as its first act.
func (b *bench) stamp(ctx context.Context, pod string) (at time.Time, err error) {
	err = until(ctx, "pod "+pod+" says when it began", func() error {
		text, err := b.log(ctx, b.namespace, pod, "app")
		if err != nil {
			return err
		}
		nanos, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		at = time.Unix(0, nanos)
		return err
	})
	return at, err
}

func (b *bench) log(ctx context.Context, namespace, pod, container string) ([]byte, error) {
	text, err := b.kube.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read log of pod %s: %w", pod, err)
	}
	return text, nil
}

// deleteApps deletes all pods of the namespace and waits until they and the
// mounts are gone.
func (b *bench) deleteApps(ctx context.Context) error {
	if err := b.deletePods(ctx, ""); err != nil {
		return err
	}
	return until(ctx, "mount pods are gone", func() error {
		list, err := b.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{LabelSelector: mountPods})
		return remaining("mount pods", list.Items, err)
	})
}

// deletePods deletes the pods of the namespace with certain labels and waits
// until they are gone.
func (b *bench) deletePods(ctx context.Context, labels string) error {
	pods, selected := b.kube.CoreV1().Pods(b.namespace), metav1.ListOptions{LabelSelector: labels}
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, selected); err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	return until(ctx, "pods are gone", func() error {
		list, err := pods.List(ctx, selected)
		return remaining("pods", list.Items, err)
	})
}

func remaining(what string, pods []corev1.Pod, err error) error {
	if err == nil && len(pods) > 0 {
		err = fmt.Errorf("%d %s are left", len(pods), what)
	}
	return err
}

// podOf is the pod of a service, on the node where everything is measured when
// it has one there.
func (b *bench) podOf(ctx context.Context, app string) (*corev1.Pod, error) {
	list, err := b.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, fmt.Errorf("find pod of %s: %w", app, err)
	}
	for i := range list.Items {
		if list.Items[i].Spec.NodeName == node {
			return &list.Items[i], nil
		}
	}
	if len(list.Items) > 0 {
		return &list.Items[0], nil
	}
	return nil, errors.New("no pod of " + app)
}
