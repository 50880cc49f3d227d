//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestALostMountIsAttachedAgain ends a connection for good, as nobody but an
// administrator can: running containers must get another one where they see
// the old one, without any mount propagation.
func TestALostMountIsAttachedAgain(t *testing.T) {
	s := newScene(t)
	fs := s.redis(12)
	s.claim("data", fs.class)
	s.app("whole", "data", onNode("node-1"))
	s.running("whole")
	_, err := s.exec("whole", "mkdir", "-p", "/data/sub")
	s.must(err)
	s.write("whole", "/data/sub/f", "kept")
	s.app("part", "data", onNode("node-1"), subPath("sub"))
	s.app("reader", "data", onNode("node-1"), readOnlyVolume)
	s.running("part", "reader")
	volume := s.volume("data").Name
	for _, minor := range s.minors("node-1", volume) {
		s.must(os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0o200))
	}
	for pod, path := range map[string]string{"whole": "/data/sub/f", "part": "/data/f", "reader": "/data/sub/f"} {
		s.eventually(pod+" reads again", func() error {
			text, err := s.exec(pod, "cat", path)
			if err == nil && text != "kept" {
				err = errors.New(text)
			}
			return err
		})
	}
	s.write("whole", "/data/sub/g", "new")
	s.reads("part", "/data/g", "new")
	if _, err := s.exec("reader", "touch", "/data/new"); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("touch on a read-only volume = %v", err)
	}
	for _, pod := range []string{"whole", "part", "reader"} {
		if count := s.pod(pod).Status.ContainerStatuses[0].RestartCount; count != 0 {
			t.Errorf("container of %s was restarted", pod)
		}
	}
	for _, pod := range []string{"whole", "part", "reader"} {
		s.deleteApp(pod)
	}
	s.nothingLeft(volume)
}

// minors are the numbers of a volume's connections on a node.
func (s *scene) minors(node, volume string) []string {
	s.Helper()
	text, err := env.cluster.NodeOutput(s.ctx, node, "cat", "/proc/self/mountinfo")
	s.must(err)
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if strings.Contains(line, " - fuse.juicefs ") && strings.HasPrefix(fields[4], "/var/lib/juicefs/volume/"+volume) {
			found = append(found, strings.TrimPrefix(fields[2], "0:"))
		}
	}
	if len(found) == 0 {
		s.Fatal(fmt.Errorf("volume %s is not mounted on %s", volume, node))
	}
	return found
}
