//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// eventLimit is how soon an event must name the cause.
const eventLimit = 30 * time.Second

func TestAPodsEventsNameTheCause(t *testing.T) {
	redisCommands(t, "ACL SETUSER guarded on >right-password ~* &* +@all")
	for name, c := range map[string]struct {
		secret     map[string]string
		attributes map[string]string
		options    []string
		want       []string
	}{
		"metadata engine unreachable": {
			secret: map[string]string{"metaurl": "redis://10.77.0.1:6390/1"}, want: []string{"10.77.0.1:6390", "refused"},
		},
		"wrong password": {
			secret: map[string]string{"metaurl": "redis://guarded:wrong-password@10.77.0.1:6379/1"}, want: []string{"WRONGPASS"},
		},
		"storage cannot be written": {
			secret: map[string]string{"bucket": "/proc/nowhere/"}, want: []string{"/proc/nowhere"},
		},
		"storage unknown": {
			secret: map[string]string{"storage": "nosuch"}, want: []string{"nosuch"},
		},
		"name refused": {
			secret: map[string]string{"name": "X"}, want: []string{"name"},
		},
		"metaurl missing": {
			secret: map[string]string{"metaurl": ""}, want: []string{"metaurl"},
		},
		"parameter unknown": {
			attributes: map[string]string{"juicefs/mount-cpu-limits": "1"}, want: []string{"juicefs/mount-cpu-limits"},
		},
		"option refused": {
			options: []string{"max_background=10"}, want: []string{"max_background"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			before := s.traces()
			fs := s.sqlite()
			s.changeSecret(fs, c.secret)
			volume := s.static(fs, "data", c.attributes, c.options...)
			s.app("app", "data", onNode("node-1"))
			s.within(eventLimit, "an event names the cause", func() error { return s.event("app", c.want) })
			s.deleteApp("app")
			s.nothingLeft(volume.Name)
			s.eventually("nothing is left behind", func() error { return newIn(before, s.traces()) })
		})
	}
}

func (s *scene) changeSecret(fs fileSystem, change map[string]string) {
	s.Helper()
	secret, err := env.kube.CoreV1().Secrets(s.namespace).Get(s.ctx, fs.secret, metav1.GetOptions{})
	s.must(err)
	for key, value := range change {
		if value == "" {
			delete(secret.Data, key)
			continue
		}
		secret.Data[key] = []byte(value)
	}
	_, err = env.kube.CoreV1().Secrets(s.namespace).Update(s.ctx, secret, metav1.UpdateOptions{})
	s.must(err)
}

// event looks for a warning about an object that holds all texts.
func (s *scene) event(object string, want []string) error {
	events, err := env.kube.CoreV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.name=" + object + ",type=" + corev1.EventTypeWarning,
	})
	if err != nil {
		return err
	}
	var seen []string
	for _, event := range events.Items {
		seen = append(seen, event.Message)
		if containsAll(event.Message, want) {
			s.Logf("%s: %s", event.Reason, event.Message)
			return nil
		}
	}
	return fmt.Errorf("no event of %d holds %q: %s", len(seen), want, strings.Join(seen, "\n"))
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// traces names what the driver keeps: Secrets, mount pods and Jobs of its
// namespace, and private files, mount directories and mounts of the nodes.
func (s *scene) traces() map[string]bool {
	s.Helper()
	secrets, err := env.kube.CoreV1().Secrets(local.Namespace).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	traces := make(map[string]bool)
	for _, secret := range secrets.Items {
		traces["secret "+secret.Name] = true
	}
	jobs, err := env.kube.BatchV1().Jobs(local.Namespace).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, job := range jobs.Items {
		traces["job "+job.Name] = true
	}
	pods, err := env.kube.CoreV1().Pods(local.Namespace).List(s.ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name in (juicefs-mount, juicefs-job),!csi.juicefs.com/spare",
	})
	s.must(err)
	for _, pod := range pods.Items {
		traces["pod "+pod.Name] = true
	}
	for _, node := range env.cluster.Nodes() {
		for _, dir := range []string{"/run/juicefs-csi/private", "/var/lib/juicefs/volume"} {
			listing, err := env.cluster.NodeOutput(s.ctx, node.Name, "ls", dir)
			s.must(err)
			for name := range strings.FieldsSeq(string(listing)) {
				traces[node.Name+":"+dir+"/"+name] = true
			}
		}
		mounts, err := env.cluster.NodeOutput(s.ctx, node.Name, "cat", "/proc/self/mountinfo")
		s.must(err)
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, " - fuse") {
				traces[node.Name+": mount at "+strings.Fields(line)[4]] = true
			}
		}
	}
	return traces
}

func newIn(before, after map[string]bool) error {
	for trace := range after {
		if !before[trace] {
			return fmt.Errorf("%s is there", trace)
		}
	}
	return nil
}

func TestAClaimsEventsNameTheCause(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	s.changeSecret(fs, map[string]string{"name": "X"})
	s.claim("data", fs.class)
	s.within(eventLimit, "an event names the cause", func() error { return s.event("data", []string{"name"}) })
}

func TestABlockVolumeIsRefused(t *testing.T) {
	s := newScene(t)
	fs := s.sqlite()
	block := corev1.PersistentVolumeBlock
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	s.claim("template", fs.class)
	template, err := env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, "template", metav1.GetOptions{})
	s.must(err)
	claim.Spec = template.Spec
	claim.Spec.VolumeName, claim.Spec.VolumeMode = "", &block
	_, err = env.kube.CoreV1().PersistentVolumeClaims(s.namespace).Create(s.ctx, claim, metav1.CreateOptions{})
	s.must(err)
	s.within(eventLimit, "an event names the cause", func() error { return s.event("data", []string{"block volume"}) })
}
