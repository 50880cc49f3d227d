//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
	"github.com/juicefs-csi/driver/test/sanity"
)

// suiteLimit bounds csi-sanity, which makes fifteen volumes one after another;
// Jobs remove them, each in a few seconds.
const suiteLimit = 10 * time.Minute

// kubeletDir is that of every node.
const kubeletDir = "/var/lib/kubelet"

func TestTheInstalledDriverConformsToCSI(t *testing.T) {
	s := newScene(t)
	before := s.traces()
	fs := s.sqlite()
	controller := s.controllerPod()
	node := controller.Spec.NodeName
	// Targets are in the directory of a pod that runs, since kubelet removes
	// directories of pods that it does not know. It sees the whole file system.
	s.static(fs, "root", nil)
	s.app("host", "root", onNode(node))
	s.running("host")

	s.conforms(node, sanity.Installed{
		Node:       "unix://" + path.Join(kubeletDir, "csi-plugins", driverName, "csi.sock"),
		Controller: "unix://" + path.Join(podDir(controller), "kubernetes.io~empty-dir", "csi", "csi.sock"),
		TargetDir:  path.Join(podDir(s.pod("host")), "kubernetes.io~csi", "sanity"),
		Secret:     s.secretOf(fs),
		Parameters: map[string]string{"juicefs/host-path": env.dataDir},
	})

	listing, err := s.exec("host", "ls", "/data")
	s.must(err)
	if listing != "" {
		t.Errorf("directories of deleted volumes are left: %s", listing)
	}
	s.deleteApp("host")
	s.eventually("nothing is left behind", func() error { return newIn(before, s.traces()) })
}

// conforms runs the suite in a node's namespaces, where the paths that it gives
// the driver mean the same to both.
func (s *scene) conforms(node string, driver sanity.Installed) {
	s.Helper()
	variable, err := driver.Variable()
	s.must(err)
	binary := s.buildSuite()
	// Later than the suite's own limit, at which it says where it is.
	ctx, cancel := context.WithTimeout(s.ctx, suiteLimit+time.Minute)
	defer cancel()
	var output bytes.Buffer
	err = env.cluster.NodeExec(ctx, node, devcluster.Streams{Out: &output, Err: &output},
		"env", variable, binary, "-test.v", "-test.timeout="+suiteLimit.String(), "-ginkgo.no-color")
	if err != nil {
		s.Fatalf("csi-sanity on %s: %v\n%s", node, err, output.String())
	}
	for line := range strings.Lines(output.String()) {
		if strings.Contains(line, "Passed |") || strings.HasPrefix(line, "Ran ") {
			s.Log(strings.TrimSpace(line))
		}
	}
}

// buildSuite builds the test of the package sanity as a program.
func (s *scene) buildSuite() string {
	s.Helper()
	tree, err := local.FindTree()
	s.must(err)
	binary := filepath.Join(s.TempDir(), "sanity.test")
	build := exec.CommandContext(s.ctx, "go", "test", "-c", "-o", binary, "./sanity")
	build.Dir = filepath.Join(tree.Root, "test")
	if output, err := build.CombinedOutput(); err != nil {
		s.Fatalf("build the suite: %v\n%s", err, output)
	}
	return binary
}

// controllerPod is a controller that serves. Each of them can make and delete
// volumes; only one watches claims.
func (s *scene) controllerPod() *corev1.Pod {
	s.Helper()
	var found *corev1.Pod
	s.eventually("a controller is ready", func() error {
		pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app=juicefs-csi-controller"})
		if err != nil {
			return err
		}
		for i, pod := range pods.Items {
			if pod.DeletionTimestamp == nil && isReady(&pods.Items[i]) {
				found = &pods.Items[i]
				return nil
			}
		}
		return fmt.Errorf("%d pods", len(pods.Items))
	})
	return found
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (s *scene) pod(name string) *corev1.Pod {
	s.Helper()
	pod, err := env.kube.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
	s.must(err)
	return pod
}

// podDir is where kubelet keeps the volumes of a pod.
func podDir(pod *corev1.Pod) string {
	return path.Join(kubeletDir, "pods", string(pod.UID), "volumes")
}

// secretOf is the content of a file system's Secret.
func (s *scene) secretOf(fs fileSystem) map[string]string {
	s.Helper()
	secret, err := env.kube.CoreV1().Secrets(s.namespace).Get(s.ctx, fs.secret, metav1.GetOptions{})
	s.must(err)
	content := make(map[string]string, len(secret.Data))
	for key, value := range secret.Data {
		content[key] = string(value)
	}
	return content
}
