//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// mountmgr is the pod of the mount manager of a node.
func (s *scene) mountmgr(node string) (string, error) {
	pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
		LabelSelector: "app=juicefs-csi-mountmgr", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil || len(pods.Items) != 1 {
		return "", fmt.Errorf("%d mount managers (%w)", len(pods.Items), errOr(err))
	}
	return pods.Items[0].Name, nil
}

// metrics are those of the mount manager of a node, a line each.
func (s *scene) metrics(node string) ([]string, error) {
	pod, err := s.mountmgr(node)
	if err != nil {
		return nil, err
	}
	return local.MountManagerMetrics(s.ctx, env.kube, pod)
}

// logged is nil once the mount manager of a node has logged a text.
func (s *scene) logged(node string, since metav1.Time, text string) error {
	pod, err := s.mountmgr(node)
	if err != nil {
		return err
	}
	options := &corev1.PodLogOptions{Container: "mountmgr", SinceTime: &since}
	log, err := env.kube.CoreV1().Pods(local.Namespace).GetLogs(pod, options).DoRaw(s.ctx)
	if err != nil || !strings.Contains(string(log), text) {
		return fmt.Errorf("no %q in the log of pod %s (%w)", text, pod, errOr(err))
	}
	return nil
}

// shows waits until some series of a node's mount manager begins so, or none.
func (s *scene) shows(node, series string, wanted bool) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s is there: %t", series, wanted), func() error {
		lines, err := s.metrics(node)
		if err != nil {
			return err
		}
		for _, line := range lines {
			if strings.HasPrefix(line, series) {
				if !wanted {
					return fmt.Errorf("there is %s", line)
				}
				return nil
			}
		}
		if wanted {
			return fmt.Errorf("none of %d lines is it", len(lines))
		}
		return nil
	})
}

func TestTheSeriesOfAMountGoWithIt(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	volume := s.static(fs, "data", nil)
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.shows("node-1", `juicefs_csi_mountmgr_mounts{state="Serving"}`, true)
	s.shows("node-1", `juicefs_csi_mountmgr_publish_seconds_count{kind="cold"}`, true)
	series := `juicefs_csi_mountmgr_mount_waiting_requests{mount_id="` + s.theMountPod(volume.Name).Labels["csi.juicefs.com/mount-id"] + `"`
	s.shows("node-1", series, true)
	s.deleteApp("app")
	s.nothingLeft(volume.Name)
	s.shows("node-1", series, false)
}

// TestAKubeletThatDoesNotAnswerIsDoneWithout gives the mount manager a port at
// which no kubelet listens.
func TestAKubeletThatDoesNotAnswerIsDoneWithout(t *testing.T) {
	s := newScene(t)
	s.shows("node-1", "juicefs_csi_mountmgr_pods_from_kubelet 1", true)
	asked := metav1.Now()
	s.reinstall("mountmgr.kubelet.port=1")
	s.eventually("the API server is asked", func() error {
		return s.logged("node-1", asked, "kubelet does not tell the pods of the node; the API server is asked")
	})
	s.shows("node-1", "juicefs_csi_mountmgr_pods_from_kubelet 0", true)
	fs := s.sqlite()
	volume := s.static(fs, "data", nil)
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.write("app", "/data/f", "works")
	s.deleteApp("app")
	s.nothingLeft(volume.Name)
}
