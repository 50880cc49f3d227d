//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/test/local"
)

func TestClientsRunAsProcessesOfTheNode(t *testing.T) {
	s := newScene(t)
	values, err := local.ProcessMode(env.cluster, "node-1")
	s.must(err)
	s.reinstall(values...)
	fs := s.redis(15)
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	volume := s.volume("data").Name
	if pods := s.mountPods(volume); len(pods) != 0 {
		t.Errorf("there is mount pod %s", pods[0].Name)
	}
	s.kill("node-1", "juicefs-mountmgr", "")
	s.advances("writer")
	s.driverReady()
	s.wroteEverything("writer")
	s.deleteApp("writer")
	s.nothingLeft(volume)
}

func TestASpareMountPodIsTaken(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	first := s.static(fs, "first", nil)
	s.app("first", "first", onNode("node-1"))
	s.running("first")
	var spare *corev1.Pod
	s.eventually("a spare waits", func() error {
		pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
			LabelSelector: local.SpareLabel, FieldSelector: "spec.nodeName=node-1,status.phase=Running",
		})
		if err != nil {
			return err
		}
		// Other tests may have left spares of other shapes.
		for i := range pods.Items {
			if sameHostPaths(&pods.Items[i], s.theMountPod(first.Name)) {
				spare = &pods.Items[i]
				return nil
			}
		}
		return fmt.Errorf("%d spares of other shapes", len(pods.Items))
	})
	second := s.static(fs, "second", map[string]string{"subPath": "second"})
	s.app("second", "second", onNode("node-1"))
	s.running("second")
	s.write("second", "/data/f", "works")
	s.eventually("the spare is the volume's mount pod", func() error {
		if pods := s.mountPods(second.Name); len(pods) != 1 || pods[0].UID != spare.UID || pods[0].Labels[local.SpareLabel] != "" {
			return fmt.Errorf("%d mount pods", len(pods))
		}
		return nil
	})
}

func sameHostPaths(one, other *corev1.Pod) bool {
	paths := func(pod *corev1.Pod) map[string]bool {
		found := make(map[string]bool)
		for _, volume := range pod.Spec.Volumes {
			if volume.HostPath != nil {
				found[volume.HostPath.Path] = true
			}
		}
		return found
	}
	a, b := paths(one), paths(other)
	if len(a) != len(b) {
		return false
	}
	for path := range a {
		if !b[path] {
			return false
		}
	}
	return true
}

func TestTheStartupTaintGoes(t *testing.T) {
	s := newScene(t)
	taint := corev1.Taint{Key: "csi.juicefs.com/agent-not-ready", Effect: corev1.TaintEffectNoExecute}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": []corev1.Taint{taint}}})
	s.must(err)
	_, err = env.kube.CoreV1().Nodes().Patch(s.ctx, "node-2", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
	s.eventually("the taint is gone", func() error {
		node, err := env.kube.CoreV1().Nodes().Get(s.ctx, "node-2", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, found := range node.Spec.Taints {
			if found.Key == taint.Key {
				return errors.New("it is there")
			}
		}
		return nil
	})
	s.driverReady()
}
