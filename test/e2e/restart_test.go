//go:build e2e

package e2e

import (
	"bytes"
	"testing"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// quiet throws away what a program prints.
func quiet() devcluster.Streams {
	var ignored bytes.Buffer
	return devcluster.Streams{Out: &ignored, Err: &ignored}
}

func TestAWriterDoesNotNoticeRestartsOfTheNodesServices(t *testing.T) {
	s := newScene(t)
	fs := s.redis(10)
	s.claim("data", fs.class)
	s.app("writer", "data", onNode("node-1"), command("sh", "-c", writerProgram))
	s.running("writer")
	pod := s.theMountPod(s.volume("data").Name)
	for _, restart := range []func() error{
		func() error { return env.cluster.RestartKubelet(s.ctx, "node-1") },
		func() error { return env.cluster.RestartContainerd(s.ctx, "node-1") },
	} {
		s.must(restart())
		s.advances("writer")
	}
	s.wroteEverything("writer")
	if s.theMountPod(pod.Labels["volume-id"]).UID != pod.UID {
		t.Error("the mount pod was replaced")
	}
	s.app("late", "data", onNode("node-1"))
	s.running("late")
	s.deleteApp("late")
}

func TestANodeComesBackAfterAReboot(t *testing.T) {
	s := newScene(t)
	fs := s.redis(11)
	s.claim("data", fs.class)
	s.app("app", "data", onNode("node-2"), command("sh", "-c", "cat /data/f >/tmp/seen 2>/dev/null; sleep infinity"))
	s.running("app")
	s.write("app", "/data/f", "before")
	s.must(env.cluster.RebootNode(s.ctx, "node-2"))
	s.driverReady()
	s.eventually("the pod runs again and sees its data", func() error {
		text, err := s.exec("app", "cat", "/data/f", "/tmp/seen")
		if err == nil && text != "beforebefore" {
			err = errOr(nil)
		}
		return err
	})
	volume := s.volume("data").Name
	s.deleteApp("app")
	s.nothingLeft(volume)
}
