//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// clients are the process ids of the JuiceFS client of a mount pod.
func (s *scene) clients(node string, pod *corev1.Pod) []int {
	s.Helper()
	pids, err := local.Processes("juicefs", env.cluster.Cgroup(node)+"/", string(pod.UID))
	s.must(err)
	if len(pids) == 0 {
		s.Fatalf("no client runs in mount pod %s", pod.Name)
	}
	return pids
}

func (s *scene) clientArguments(node string, pod *corev1.Pod) string {
	return s.ofClient(node, pod, "cmdline")
}

func (s *scene) clientEnvironment(node string, pod *corev1.Pod) string {
	return s.ofClient(node, pod, "environ")
}

func (s *scene) ofClient(node string, pod *corev1.Pod, file string) string {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.clients(node, pod)[0], file))
	s.must(err)
	return strings.ReplaceAll(string(text), "\x00", " ")
}

// freeze stops a client, and lets it go on when the test is over.
func (s *scene) freeze(node string, pod *corev1.Pod) {
	s.Helper()
	for _, pid := range s.clients(node, pod) {
		s.must(syscall.Kill(pid, syscall.SIGSTOP))
		s.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
}
