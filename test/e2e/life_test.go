//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// theMountPod is the one mount pod of a volume.
func (s *scene) theMountPod(volume string) *corev1.Pod {
	s.Helper()
	var one *corev1.Pod
	s.eventually("volume "+volume+" has one mount pod", func() error {
		pods := slices.DeleteFunc(s.mountPods(volume), func(pod corev1.Pod) bool {
			return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed
		})
		if len(pods) != 1 {
			return fmt.Errorf("there are %d", len(pods))
		}
		one = &pods[0]
		return nil
	})
	return one
}

func TestAnUnusedMountWaits(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	volume := s.static(fs, "data", map[string]string{"juicefs/mount-delete-delay": "15s"})
	s.app("one", "data", onNode("node-1"))
	s.running("one")
	first := s.theMountPod(volume.Name).UID
	s.deleteApp("one")
	s.eventually("the mount pod says when it goes", func() error {
		at := s.theMountPod(volume.Name).Annotations["juicefs-delete-at"]
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			return err
		}
		return nil
	})
	s.app("two", "data", onNode("node-1"))
	s.running("two")
	if s.theMountPod(volume.Name).UID != first {
		t.Error("the waiting mount was not used again")
	}
	s.eventually("the mount pod stays", func() error {
		if at := s.theMountPod(volume.Name).Annotations["juicefs-delete-at"]; at != "" {
			return fmt.Errorf("it goes at %s", at)
		}
		return nil
	})
	s.deleteApp("two")
	s.nothingLeft(volume.Name)
}

func TestTheCacheGoesWithTheLastMount(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	cache := "/var/jfsCache/" + s.namespace
	volume := s.static(fs, "data", map[string]string{"juicefs/clean-cache": "true"}, "cache-dir="+cache)
	s.app("one", "data", onNode("node-1"))
	s.running("one")
	_, err := s.exec("one", "sh", "-c", "dd if=/dev/urandom of=/data/f bs=1M count=4 && cat /data/f >/dev/null")
	s.must(err)
	uuid := ""
	s.eventually("blocks are cached", func() error {
		text, err := env.cluster.NodeOutput(s.ctx, "node-1", "find", cache, "-type", "f", "-path", "*/raw/chunks/*")
		if err != nil || len(text) == 0 {
			return errOr(err)
		}
		uuid = strings.Split(strings.TrimPrefix(string(text), cache+"/"), "/")[0]
		return nil
	})
	// A block that was not uploaded yet must stay.
	staged := path.Join(cache, uuid, "rawstaging", "chunks", "kept")
	s.must(env.cluster.NodeExec(s.ctx, "node-1", quiet(), "mkdir", "-p", path.Dir(staged)))
	s.must(env.cluster.NodeExec(s.ctx, "node-1", quiet(), "touch", staged))
	s.deleteApp("one")
	s.nothingLeft(volume.Name)
	s.eventually("the cached blocks are gone", func() error {
		text, err := env.cluster.NodeOutput(s.ctx, "node-1", "find", cache, "-type", "f", "-path", "*/chunks/*")
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(text)) != staged {
			return fmt.Errorf("there are %s", text)
		}
		return nil
	})
}

func TestAMountPodThatDoesNotFitGivesUpItsRequests(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	// A spare mount pod is resized in place, which asks nothing of the node;
	// another grace period makes it a new pod.
	s.configure(`
mountPodPatch:
  - resources:
      requests: {cpu: 10m, memory: 32Mi}
  - pvcSelector: {matchName: ` + s.namespace + `/data}
    terminationGracePeriodSeconds: 20
    resources:
      requests: {cpu: "64", memory: 1Ti}
`)
	volume := s.static(fs, "data", nil)
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.write("app", "/data/f", "works")
	pod := s.theMountPod(volume.Name)
	if cpu := pod.Spec.Containers[0].Resources.Requests.Cpu(); !cpu.IsZero() {
		t.Errorf("the mount pod still requests %s processors", cpu)
	}
}

// The mount pod shows that its image is missing; once that is put right the
// application's pod starts without further help.
func TestAMissingImageIsNamedAndAnotherOneTaken(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	const image = "juicefs-csi/nosuch:ce-v1.4.2"
	s.configure(`
mountPodPatch:
  - resources:
      requests: {cpu: 10m, memory: 32Mi}
  - pvcSelector: {matchName: ` + s.namespace + `/data}
    ceMountImage: ` + image + `
`)
	volume := s.static(fs, "data", nil)
	s.app("app", "data", onNode("node-1"))
	s.eventually("the image cannot be pulled", func() error {
		for _, pod := range s.mountPods(volume.Name) {
			for _, container := range pod.Status.ContainerStatuses {
				if container.Image == image && container.State.Waiting != nil && strings.Contains(container.State.Waiting.Reason, "ImagePull") {
					return nil
				}
			}
		}
		return errors.New("no mount pod says so")
	})
	s.configure("mountPodPatch:\n  - resources:\n      requests: {cpu: 10m, memory: 32Mi}\n")
	s.running("app")
	s.write("app", "/data/f", "works")
	s.must(s.event("app", []string{"ImagePull", image}))
	s.deleteApp("app")
	s.nothingLeft(volume.Name)
}

func TestAnEvictedMountPodIsReplaced(t *testing.T) {
	s := newScene(t)
	fs := s.redis(8)
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	volume := s.volume("data").Name
	old := s.theMountPod(volume)
	s.must(env.kube.PolicyV1().Evictions(local.Namespace).Evict(s.ctx, &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: old.Name, Namespace: local.Namespace},
	}))
	s.eventually("another mount pod serves", func() error {
		pods := s.mountPods(volume)
		if len(pods) != 1 || pods[0].UID == old.UID {
			return fmt.Errorf("%d mount pods", len(pods))
		}
		return nil
	})
	s.advances("writer")
	s.wroteEverything("writer")
}

// deadLimit is how soon the pod of a mount that does not answer must be gone:
// its grace period, and what kubelet needs for any pod.
const deadLimit = 20 * time.Second

func TestAPodOfAFrozenMountGoes(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	volume := s.static(fs, "data", nil)
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.freeze("node-1", s.theMountPod(volume.Name))
	s.must(env.kube.CoreV1().Pods(s.namespace).Delete(s.ctx, "app", metav1.DeleteOptions{}))
	s.within(deadLimit, "the pod is gone", func() error {
		pods, err := env.kube.CoreV1().Pods(s.namespace).List(s.ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = errors.New("it is there")
		}
		return err
	})
}
