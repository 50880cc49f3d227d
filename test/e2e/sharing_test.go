//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

func TestVolumesOfAClassShareAMount(t *testing.T) {
	s := newScene(t)
	s.reinstall("mountmgr.mountShare=storageClass")
	fs := s.sqlite()
	s.claim("one", fs.class)
	s.claim("two", fs.class)
	s.app("one", "one", onNode("node-1"))
	s.app("two", "two", onNode("node-1"))
	s.running("one", "two")
	s.seesOnlyItsOwn(fs.class)
	s.deleteApp("one")
	s.reads("two", "/data/f", "two")
	s.deleteApp("two")
	s.nothingLeft(fs.class)
}

func TestVolumesOfAFileSystemShareAMount(t *testing.T) {
	s := newScene(t)
	s.reinstall("mountmgr.mountShare=fileSystem")
	fs := s.sqlite()
	s.static(fs, "one", map[string]string{"subPath": "a"})
	s.static(fs, "two", map[string]string{"subPath": "b/c"})
	s.app("one", "one", onNode("node-1"))
	s.app("two", "two", onNode("node-1"))
	s.running("one", "two")
	s.seesOnlyItsOwn(fs.name)
	s.deleteApp("two")
	s.reads("one", "/data/f", "one")
	s.deleteApp("one")
	s.nothingLeft(fs.name)
}

// seesOnlyItsOwn writes into the volumes of the pods one and two, and checks
// that they have one mount pod and not each other's files.
func (s *scene) seesOnlyItsOwn(uniqueID string) {
	s.Helper()
	if count := len(s.mountPods(uniqueID)); count != 1 {
		s.Errorf("%d mount pods of %s", count, uniqueID)
	}
	s.write("one", "/data/f", "one")
	s.write("two", "/data/f", "two")
	s.reads("one", "/data/f", "one")
	listing, err := s.exec("two", "ls", "/data")
	s.must(err)
	if strings.TrimSpace(listing) != "f" {
		s.Errorf("the volume of pod two shows %q", listing)
	}
}
