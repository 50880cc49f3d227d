//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// processes are the ids of the programs of this name that run in pods of a
// node, as the machine numbers them: nodes have no pid namespace of their own.
func (s *scene) processes(node, name, podUID string) []int {
	s.Helper()
	found, err := local.Processes(name, env.cluster.Cgroup(node)+"/", podUID)
	s.must(err)
	return found
}

// kill ends a program of the node without warning.
func (s *scene) kill(node, name, podUID string) {
	s.Helper()
	pids := s.processes(node, name, podUID)
	if len(pids) == 0 {
		s.Fatalf("no %s runs on %s", name, node)
	}
	for _, pid := range pids {
		s.must(syscall.Kill(pid, syscall.SIGKILL))
	}
	s.eventually(name+" has ended", func() error {
		for _, pid := range pids {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("process %d is there", pid)
			}
		}
		return nil
	})
}

// TestAWriterDoesNotNoticeKillsOfTheDriver kills everything of the driver but
// the client itself, whose death this release survives for readers only.
func TestAWriterDoesNotNoticeKillsOfTheDriver(t *testing.T) {
	s := newScene(t)
	fs := s.redis(5)
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	for _, name := range []string{"juicefs-fdvault", "juicefs-mountmgr", "juicefs-csi-node"} {
		s.kill("node-1", name, "")
		s.advances("writer")
		s.driverReady()
	}
	s.wroteEverything("writer")
	s.app("late", "data", onNode("node-1"))
	s.running("late")
}

func TestAVolumeSurvivesAKilledMountPod(t *testing.T) {
	s := newScene(t)
	fs := s.redis(6)
	s.claim("data", fs.class)
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.write("app", "/data/before", "kept")
	volume := s.volume("data").Name
	for range 2 {
		old := s.theMountPod(volume)
		s.kill("node-1", "jfs-launch", string(old.UID))
		s.reads("app", "/data/before", "kept")
		s.write("app", "/data/after", "works")
		s.reads("app", "/data/after", "works")
		s.eventually("another mount pod has taken its place", func() error {
			now := s.mountPods(volume)
			if len(now) != 1 || now[0].UID == old.UID {
				return fmt.Errorf("%d mount pods", len(now))
			}
			return nil
		})
	}
}

// driverReady waits until all pods of the driver are ready again.
func (s *scene) driverReady() {
	s.Helper()
	s.eventually("the driver is ready", func() error {
		pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=juicefs-csi-driver",
		})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			for _, condition := range pod.Status.Conditions {
				if condition.Type == corev1.PodReady && condition.Status != corev1.ConditionTrue {
					return fmt.Errorf("pod %s is not ready", pod.Name)
				}
			}
		}
		return nil
	})
}
