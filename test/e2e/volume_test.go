//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

func TestADynamicVolumeIsSharedAndOutlivesItsPods(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	s.claim("data", fs.class)
	s.app("one", "data", onNode("node-1"))
	s.app("two", "data", onNode("node-1"))
	s.running("one", "two")
	s.write("one", "/data/f", "from one")
	s.reads("two", "/data/f", "from one")

	volume := s.volume("data")
	if pods := s.mountPods(volume.Name); len(pods) != 1 {
		t.Errorf("two pods of one node share %d mount pods", len(pods))
	}
	s.deleteApp("one")
	s.deleteApp("two")
	s.nothingLeft(volume.Name)

	s.app("three", "data", onNode("node-2"))
	s.running("three")
	s.reads("three", "/data/f", "from one")
	s.deleteApp("three")
	s.deletesData(fs, "data", volume)
}

// deletesData checks that deleting a claim deletes what it held.
func (s *scene) deletesData(fs fileSystem, claim string, volume *corev1.PersistentVolume) {
	s.Helper()
	s.must(env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Delete(s.ctx, claim, metav1.DeleteOptions{}))
	s.eventually("the volume is deleted", func() error {
		_, err := env.kube.CoreV1().PersistentVolumes().Get(s.ctx, volume.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errOr(err)
	})
	// Another volume of the file system shows its root.
	s.static(fs, "root", nil)
	s.app("looks", "root")
	s.running("looks")
	listing, err := s.exec("looks", "ls", "/data")
	s.must(err)
	if strings.Contains(listing, volume.Name) {
		s.Errorf("the deleted volume's directory is still there: %s", listing)
	}
}

// static makes a PersistentVolume by hand, and a claim of the same name. Its
// mount pods see the directory of all file systems on the node's disk.
func (s *scene) static(fs fileSystem, name string, attributes map[string]string, mountOptions ...string) *corev1.PersistentVolume {
	s.Helper()
	all := map[string]string{"juicefs/host-path": env.dataDir}
	maps.Copy(all, attributes)
	return s.staticBare(fs, name, all, mountOptions...)
}

// staticBare is static with these attributes alone.
func (s *scene) staticBare(fs fileSystem, name string, attributes map[string]string, mountOptions ...string) *corev1.PersistentVolume {
	s.Helper()
	capacity := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Pi")}
	volumeName, none := s.namespace+"-"+name, ""
	volume, err := env.kube.CoreV1().PersistentVolumes().Create(s.ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volumeName},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: capacity, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, MountOptions: mountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: volumeName, FSType: "juicefs", VolumeAttributes: attributes,
				NodePublishSecretRef: &corev1.SecretReference{Name: fs.secret, Namespace: s.namespace},
			}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() { _ = env.kube.CoreV1().PersistentVolumes().Delete(s.ctx, volumeName, metav1.DeleteOptions{}) })
	_, err = env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Create(s.ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &none, VolumeName: volumeName,
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources:   corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	return volume
}

func TestAStaticVolumeShowsTheWholeFileSystem(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	volume := s.static(fs, "all", nil)
	s.app("one", "all", onNode("node-1"))
	s.running("one")
	s.write("one", "/data/f", "hello")
	s.static(fs, "part", nil, "subdir=part")
	s.app("two", "part", onNode("node-1"))
	s.running("two")
	s.write("two", "/data/g", "inside")
	s.reads("one", "/data/part/g", "inside")
	s.deleteApp("one")
	s.deleteApp("two")
	s.nothingLeft(volume.Name)
}

func TestTwoNodesSeeEachOthersWrites(t *testing.T) {
	s := newScene(t)
	fs := s.redis(3)
	s.claim("data", fs.class)
	s.app("one", "data", onNode("node-1"))
	s.app("two", "data", onNode("node-2"))
	s.running("one", "two")
	s.write("one", "/data/f", "from node 1")
	s.write("two", "/data/g", "from node 2")
	s.reads("two", "/data/f", "from node 1")
	s.reads("one", "/data/g", "from node 2")
}

func TestReadOnlyAndSubPath(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"))
	s.running("writer")
	_, err := s.exec("writer", "mkdir", "-p", "/data/sub/dir")
	s.must(err)
	s.write("writer", "/data/sub/dir/f", "deep")

	s.app("reader", "data", onNode("node-1"), readOnlyVolume)
	s.app("below", "data", onNode("node-1"), subPath("sub/dir"))
	s.running("reader", "below")
	s.reads("reader", "/data/sub/dir/f", "deep")
	s.reads("below", "/data/f", "deep")
	if _, err := s.exec("reader", "touch", "/data/new"); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("touch on a read-only volume = %v", err)
	}
}

func TestAMountPodHasNoPrivilege(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	s.claim("data", fs.class)
	s.app("one", "data", onNode("node-1"))
	s.running("one")
	pods := s.mountPods(s.volume("data").Name)
	if len(pods) != 1 {
		t.Fatalf("%d mount pods", len(pods))
	}
	s.unprivileged(&pods[0])

	status := s.processStatus("node-1", string(pods[0].UID))
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("a process of the mount pod lacks %q:\n%s", want, status)
		}
	}
}

// unprivileged checks what the API says of a mount pod.
func (s *scene) unprivileged(pod *corev1.Pod) {
	s.Helper()
	if pod.Spec.HostPID || pod.Spec.HostIPC || pod.Spec.HostNetwork {
		s.Errorf("mount pod %s uses a namespace of the host", pod.Name)
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected != nil {
			s.Errorf("mount pod %s has the token volume %s", pod.Name, volume.Name)
		}
		if volume.HostPath != nil && strings.HasPrefix(volume.HostPath.Path, "/dev") {
			s.Errorf("mount pod %s has the device %s", pod.Name, volume.HostPath.Path)
		}
	}
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			if mount.MountPropagation != nil && *mount.MountPropagation != corev1.MountPropagationNone {
				s.Errorf("mount pod %s propagates %s", pod.Name, mount.MountPath)
			}
		}
	}
}

// processStatus is /proc/PID/status of every process of a pod, found by its
// cgroup, as the node sees it.
func (s *scene) processStatus(node, podUID string) string {
	s.Helper()
	entries, err := os.ReadDir("/proc")
	s.must(err)
	var found strings.Builder
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		cgroup, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if err != nil || !strings.Contains(string(cgroup), podUID) {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err == nil && strings.Contains(string(status), "juicefs\n") {
			found.Write(status)
		}
	}
	if found.Len() == 0 {
		s.Fatalf("no JuiceFS client of pod %s runs on %s", podUID, node)
	}
	return found.String()
}

// writerProgram appends numbered lines to a file that it holds open, and ends
// with an error as soon as one cannot be written.
const writerProgram = `exec 3>>/data/log; i=0; while true; do echo $i >&3 || exit 1; i=$((i+1)); echo $i > /tmp/acked; usleep 2000; done`

func TestAWriterDoesNotNoticeThatItsMountPodIsDeleted(t *testing.T) {
	s := newScene(t)
	fs := s.redis(4)
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	volume := s.volume("data").Name
	for range 3 {
		s.replacesMountPod(volume)
		s.advances("writer")
	}
	s.wroteEverything("writer")
}

// wroteEverything checks that a writer saw no error and that what it was told
// to be written is there.
func (s *scene) wroteEverything(name string) {
	s.Helper()
	acked := s.acked(name)
	lines, err := s.exec(name, "sh", "-c", "head -n "+strconv.Itoa(acked)+" /data/log | wc -l")
	s.must(err)
	if strings.TrimSpace(lines) != strconv.Itoa(acked) {
		s.Errorf("%d lines were acknowledged, %s are there", acked, lines)
	}
	pod, err := env.kube.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
	s.must(err)
	if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		s.Errorf("the writer saw an error and was restarted %d times", restarts)
	}
}

// replacesMountPod deletes the mount pod as kubectl does and waits until
// another one serves and the old one is gone.
func (s *scene) replacesMountPod(volume string) {
	s.Helper()
	old := s.mountPods(volume)
	if len(old) != 1 {
		s.Fatalf("%d mount pods", len(old))
	}
	s.must(env.kube.CoreV1().Pods(local.Namespace).Delete(s.ctx, old[0].Name, metav1.DeleteOptions{}))
	s.eventually("another mount pod serves", func() error {
		now := s.mountPods(volume)
		if len(now) != 1 || now[0].UID == old[0].UID || now[0].Status.Phase != corev1.PodRunning {
			return fmt.Errorf("%d mount pods", len(now))
		}
		return nil
	})
}

func (s *scene) acked(pod string) int {
	s.Helper()
	number := 0
	s.eventually("the writer tells what is acknowledged", func() error {
		text, err := s.exec(pod, "cat", "/tmp/acked")
		if err == nil {
			number, err = strconv.Atoi(strings.TrimSpace(text)) // Empty while the writer replaces it.
		}
		return err
	})
	return number
}

// advances waits until a writer has acknowledged more lines.
func (s *scene) advances(pod string) {
	s.Helper()
	before := s.acked(pod)
	s.eventually("the writer goes on", func() error {
		if s.acked(pod) <= before+10 {
			return errors.New("it stands")
		}
		return nil
	})
}
