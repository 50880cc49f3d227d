//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/test/local"
)

const configMapName = "juicefs-csi-driver-config"

// install installs the charts with further values.
func (s *scene) install(values ...string) {
	s.Helper()
	s.must(env.tree.Upgrade(s.ctx, env.cluster, env.helm, io.Discard, append(installValues(), values...)...))
	s.driverReady()
}

// reinstall is install, and as before when the test is over.
func (s *scene) reinstall(values ...string) {
	s.Helper()
	s.Cleanup(func() { s.install() })
	s.install(values...)
}

// configure replaces config.yaml, and puts it back when the test is over. It
// returns when the mount manager of node-1 has seen the new one.
func (s *scene) configure(text string) {
	s.Helper()
	asked := metav1.Now()
	before := s.writeConfig(text)
	s.Cleanup(func() { s.writeConfig(before) })
	s.eventually("the configuration is read", func() error { return s.logged("node-1", asked, `msg="configuration `) })
}

func (s *scene) writeConfig(text string) (before string) {
	s.Helper()
	maps := env.kube.CoreV1().ConfigMaps(local.Namespace)
	found, err := maps.Get(s.ctx, configMapName, metav1.GetOptions{})
	s.must(err)
	before, found.Data["config.yaml"] = found.Data["config.yaml"], text
	_, err = maps.Update(s.ctx, found, metav1.UpdateOptions{})
	s.must(err)
	return before
}

// patchedConfig selects a claim by its label, and asks for about every kind of
// setting.
const patchedConfig = `
mountPodPatch:
  - resources:
      requests: {cpu: 10m, memory: 32Mi}
  - pvcSelector:
      matchLabels: {speed: fast}
    labels: {picked: "yes"}
    annotations: {volume: "${VOLUME_ID}"}
    resources:
      requests: {cpu: 20m, memory: 48Mi}
      limits: {memory: 1Gi}
    env:
      - name: SPEED
        value: fast
    mountOptions: ["buffer-size=25%"]
    startupProbe:
      exec: {command: ["/bin/true"]}
    cacheDirs:
      - {type: EmptyDir, sizeLimit: 64Mi}
    terminationGracePeriodSeconds: 33
`

func TestTheConfigMapChangesNewMountPods(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	s.configure(patchedConfig)
	s.claim("plain", fs.class)
	s.claim("fast", fs.class)
	label := []byte(`{"metadata":{"labels":{"speed":"fast"}}}`)
	_, err := env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Patch(s.ctx, "fast", types.MergePatchType, label, metav1.PatchOptions{})
	s.must(err)
	volume := s.volume("fast").Name
	s.app("fast", "fast", onNode("node-1"))
	s.running("fast")
	pod := s.theMountPod(volume)
	s.write("fast", "/data/f", "works")
	container := pod.Spec.Containers[0]
	for what, got := range map[string]bool{
		"label":                  pod.Labels["picked"] == "yes",
		"template in annotation": pod.Annotations["volume"] == volume,
		"memory limit":           container.Resources.Limits.Memory().String() == "1Gi",
		"variable":               strings.Contains(fmt.Sprint(container.Env, s.clientEnvironment("node-1", pod)), "SPEED"),
		"startup probe":          container.StartupProbe != nil,
		"cache in an emptyDir":   hasEmptyDir(pod, "64Mi"),
		"grace period":           *pod.Spec.TerminationGracePeriodSeconds == 33,
		"share of the memory":    strings.Contains(s.clientArguments("node-1", pod), "buffer-size=256"),
	} {
		if !got {
			t.Errorf("the mount pod lacks: %s", what)
		}
	}
	s.app("plain", "plain", onNode("node-1"))
	s.running("plain")
	for _, other := range s.mountPods(s.volume("plain").Name) {
		if other.Labels["picked"] != "" {
			t.Error("a claim that is not selected is changed too")
		}
	}
}

func hasEmptyDir(pod *corev1.Pod, size string) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.EmptyDir != nil && volume.EmptyDir.SizeLimit != nil && volume.EmptyDir.SizeLimit.String() == size {
			return true
		}
	}
	return false
}

func TestABadConfigMapChangesNothing(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	// The controller makes no volume before the fault is repaired.
	s.claim("data", fs.class)
	s.volume("data")
	s.configure("mountPodPatch:\n  - cacheDir: wrong\n")
	s.eventually("an event names the fault", func() error {
		events, err := env.kube.CoreV1().Events("").List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Type == corev1.EventTypeWarning && strings.Contains(event.Message, "cacheDir") {
				return nil
			}
		}
		return fmt.Errorf("none of %d events does", len(events.Items))
	})
	s.app("app", "data", onNode("node-1"))
	s.running("app")
	s.write("app", "/data/f", "works")
}
