//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	// patience bounds every wait of a test.
	patience = 90 * time.Second
	// pollInterval paces them.
	pollInterval = 100 * time.Millisecond
	driverName   = "csi.juicefs.com"
)

// scene is one test's namespace with everything it makes.
type scene struct {
	*testing.T
	ctx       context.Context
	namespace string
}

// newScene makes a namespace that goes with the test; nothing of the driver
// may be left behind then.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, ctx: context.Background(), namespace: "e2e-" + rand.String(6)}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	_, err := env.kube.CoreV1().Namespaces().Create(s.ctx, namespace, metav1.CreateOptions{})
	s.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			s.describe()
		}
		s.cleanUp()
	})
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// cleanUp deletes the namespace's pods and claims, and then the namespace.
func (s *scene) cleanUp() {
	zero := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &zero}
	_ = env.kube.CoreV1().Pods(s.namespace).DeleteCollection(s.ctx, options, metav1.ListOptions{})
	_ = env.kube.CoreV1().PersistentVolumeClaims(s.namespace).DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	s.eventually("pods and claims are gone", func() error {
		pods, err := env.kube.CoreV1().Pods(s.namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil || len(pods.Items) > 0 {
			return fmt.Errorf("%d pods (%w)", len(pods.Items), errOr(err))
		}
		claims, err := env.kube.CoreV1().PersistentVolumeClaims(s.namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil || len(claims.Items) > 0 {
			return fmt.Errorf("%d claims (%w)", len(claims.Items), errOr(err))
		}
		return s.volumesGone()
	})
	_ = env.kube.CoreV1().Namespaces().Delete(s.ctx, s.namespace, metav1.DeleteOptions{})
}

// volumesGone fails while a dynamic volume of the namespace is being deleted:
// that needs the file system, which goes next.
func (s *scene) volumesGone() error {
	volumes, err := env.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, volume := range volumes.Items {
		claim := volume.Spec.ClaimRef
		if claim != nil && claim.Namespace == s.namespace && volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
			return fmt.Errorf("volume %s is %s", volume.Name, volume.Status.Phase)
		}
	}
	return nil
}

func errOr(err error) error {
	if err != nil {
		return err
	}
	return errors.New("still there")
}

// eventually waits for check to succeed.
func (s *scene) eventually(what string, check func() error) {
	s.Helper()
	s.within(patience, what, check)
}

func (s *scene) within(limit time.Duration, what string, check func() error) {
	s.Helper()
	s.must(local.Until(s.ctx, limit, pollInterval, what, check))
}

// fileSystem is a JuiceFS file system with its Secret and StorageClass.
type fileSystem struct {
	name, secret, class string
	parameters          map[string]string
}

// sqlite is a file system on the disk that all nodes of this machine share.
func (s *scene) sqlite() fileSystem {
	name := "fs-" + rand.String(6)
	return s.fileSystem(name, map[string]string{
		"name": name, "metaurl": "sqlite3://" + env.dataDir + "/" + name + ".db",
		"storage": "file", "bucket": env.dataDir + "/" + name + "/",
	})
}

// redis is a file system that several nodes may use at one time. It takes the
// whole database of that number.
func (s *scene) redis(database int) fileSystem {
	s.Helper()
	s.must(local.FlushRedis(s.ctx, database))
	name := "fs-" + rand.String(6)
	return s.fileSystem(name, local.RedisSecret(name, database, env.dataDir+"/"+name))
}

// redisCommands speaks to the cluster's Redis; every command must be answered
// with OK.
func redisCommands(t *testing.T, commands ...string) {
	t.Helper()
	if err := local.RedisCommands(t.Context(), commands...); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) fileSystem(name string, secret map[string]string) fileSystem {
	s.Helper()
	fs := fileSystem{name: name, secret: name, class: name, parameters: map[string]string{
		"csi.storage.k8s.io/provisioner-secret-name":            name,
		"csi.storage.k8s.io/provisioner-secret-namespace":       s.namespace,
		"csi.storage.k8s.io/node-publish-secret-name":           name,
		"csi.storage.k8s.io/node-publish-secret-namespace":      s.namespace,
		"csi.storage.k8s.io/controller-expand-secret-name":      name,
		"csi.storage.k8s.io/controller-expand-secret-namespace": s.namespace,
		"juicefs/host-path": env.dataDir,
	}}
	_, err := env.kube.CoreV1().Secrets(s.namespace).Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: secret,
	}, metav1.CreateOptions{})
	s.must(err)
	reclaim := corev1.PersistentVolumeReclaimDelete
	_, err = env.kube.StorageV1().StorageClasses().Create(s.ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: driverName, Parameters: fs.parameters, ReclaimPolicy: &reclaim,
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() { _ = env.kube.StorageV1().StorageClasses().Delete(s.ctx, name, metav1.DeleteOptions{}) })
	return fs
}

// claim makes a claim of a StorageClass and does not wait for it.
func (s *scene) claim(name, class string) {
	s.Helper()
	_, err := env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Create(s.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
			},
		},
	}, metav1.CreateOptions{})
	s.must(err)
}

// volume waits until a claim is bound and returns its PersistentVolume.
func (s *scene) volume(claim string) *corev1.PersistentVolume {
	s.Helper()
	var volume *corev1.PersistentVolume
	s.eventually("claim "+claim+" is bound", func() error {
		found, err := env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if found.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("it is %s", found.Status.Phase)
		}
		volume, err = env.kube.CoreV1().PersistentVolumes().Get(s.ctx, found.Spec.VolumeName, metav1.GetOptions{})
		return err
	})
	return volume
}

// podOption changes the pod that app makes.
type podOption func(*corev1.Pod)

func onNode(name string) podOption {
	return func(pod *corev1.Pod) {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
	}
}

func readOnlyVolume(pod *corev1.Pod) {
	pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
}

func subPath(path string) podOption {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].VolumeMounts[0].SubPath = path }
}

func command(argv ...string) podOption {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].Command = argv }
}

// app makes a pod that has a claim at /data; it sleeps unless told otherwise.
func (s *scene) app(name, claim string, options ...podOption) {
	s.Helper()
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "app", Image: local.AppImage(env.release), Command: []string{"sleep", "infinity"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}
	for _, option := range options {
		option(pod)
	}
	_, err := env.kube.CoreV1().Pods(s.namespace).Create(s.ctx, pod, metav1.CreateOptions{})
	s.must(err)
}

// running waits until pods run.
func (s *scene) running(names ...string) {
	s.Helper()
	for _, name := range names {
		s.eventually("pod "+name+" runs", func() error {
			pod, err := env.kube.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
			if err == nil && pod.Status.Phase != corev1.PodRunning {
				err = fmt.Errorf("it is %s", pod.Status.Phase)
			}
			return err
		})
	}
}

// deleteApp deletes a pod and waits until it is gone.
func (s *scene) deleteApp(name string) {
	s.Helper()
	s.must(env.kube.CoreV1().Pods(s.namespace).Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.eventually("pod "+name+" is gone", func() error {
		_, err := env.kube.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errOr(err)
	})
}

// exec runs a program in a pod and returns what it prints.
func (s *scene) exec(pod string, argv ...string) (string, error) {
	request := env.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(s.namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(env.config, "POST", request.URL())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return stdout.String(), fmt.Errorf("%s in pod %s: %w: %s", strings.Join(argv, " "), pod, err, stderr.String())
	}
	return stdout.String(), nil
}

// write puts content into a file of a pod.
func (s *scene) write(pod, path, content string) {
	s.Helper()
	_, err := s.exec(pod, "sh", "-c", `printf %s "$1" > "$2"`, "sh", content, path)
	s.must(err)
}

// reads checks the content of a file of a pod.
func (s *scene) reads(pod, path, want string) {
	s.Helper()
	got, err := s.exec(pod, "cat", path)
	s.must(err)
	if got != want {
		s.Errorf("%s of pod %s holds %q instead of %q", path, pod, got, want)
	}
}

// mountPods are the mount pods of a volume, those that are going included.
func (s *scene) mountPods(volumeID string) []corev1.Pod {
	s.Helper()
	pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=juicefs-mount,volume-id=" + volumeID,
	})
	s.must(err)
	return pods.Items
}

// nothingLeft waits until no trace of a volume is on any node.
func (s *scene) nothingLeft(volumeID string) {
	s.Helper()
	s.eventually("mount pods and mounts of "+volumeID+" are gone", func() error {
		if pods := s.mountPods(volumeID); len(pods) > 0 {
			return fmt.Errorf("mount pod %s", pods[0].Name)
		}
		for _, node := range env.cluster.Nodes() {
			for _, path := range []string{"/proc/self/mountinfo"} {
				text, err := env.cluster.NodeOutput(s.ctx, node.Name, "cat", path)
				if err != nil || strings.Contains(string(text), volumeID) {
					return fmt.Errorf("%s of %s names it (%w)", path, node.Name, errOr(err))
				}
			}
			listing, err := env.cluster.NodeOutput(s.ctx, node.Name, "ls", "/var/lib/juicefs/volume")
			if err != nil || strings.Contains(string(listing), volumeID) {
				return fmt.Errorf("directory on %s (%w)", node.Name, errOr(err))
			}
		}
		return nil
	})
}

// describe prints what helps to understand a failure.
func (s *scene) describe() {
	var out bytes.Buffer
	streams := devcluster.Streams{Out: &out, Err: &out}
	for _, args := range [][]string{
		{"get", "pods,pvc", "-n", s.namespace, "-o", "wide"},
		{"get", "events", "-n", s.namespace, "--sort-by=.lastTimestamp"},
		{"get", "pods", "-n", local.Namespace, "-o", "wide"},
		{"logs", "-n", local.Namespace, "-l", "app=juicefs-csi-mountmgr", "-c", "mountmgr", "--tail=60", "--prefix"},
		{"logs", "-n", local.Namespace, "-l", "app=juicefs-csi-controller", "--tail=40", "--prefix"},
	} {
		_ = env.cluster.Kubectl(s.ctx, streams, args...)
	}
	s.Log(out.String())
}
