package cachedir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/cachedir"
)

// shape is a mount pod of the user and group of the tests, which may give files
// to nobody else.
func shape(dirs ...string) volume.PodShape {
	return userShape(int64(max(os.Getuid(), 1)), dirs...)
}

func userShape(uid int64, dirs ...string) volume.PodShape {
	s := volume.PodShape{RunAsUser: &uid, RunAsGroup: new(int64(os.Getgid()))}
	for _, dir := range dirs {
		s.CacheDirs = append(s.CacheDirs, volume.UserCacheDir(dir, uid))
	}
	return s
}

func checkOwn(t *testing.T, path string, uid int64) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if int64(stat.Uid) != uid || stat.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("%s belongs to %d, mode %o", path, stat.Uid, stat.Mode)
	}
}

func TestPrepare(t *testing.T) {
	host, own := t.TempDir(), t.TempDir()
	roots := cachedir.Roots{Own: []string{own}, Host: host}
	s := shape("/mnt/ssd/deep", filepath.Join(own, "cache"))
	for range 2 { // It must do no harm to do it again.
		if err := roots.Prepare(s); err != nil {
			t.Fatal(err)
		}
	}
	checkOwn(t, filepath.Join(host, s.CacheDirs[0]), s.UID())
	checkOwn(t, s.CacheDirs[1], s.UID())
}

func TestPodsOfRootNeedNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	if err := (cachedir.Roots{}).Prepare(volume.PodShape{CacheDirs: []string{dir}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it was made: %v", err)
	}
}

// TestLinksStayOnTheHost checks that a link of the host is followed as the host
// would, and never into another root.
func TestLinksStayOnTheHost(t *testing.T) {
	host := t.TempDir()
	if err := os.MkdirAll(filepath.Join(host, "data/ssd"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"mnt": "/data/ssd", "up": "../../../../data/ssd"} {
		if err := os.Symlink(target, filepath.Join(host, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := shape("/mnt", "/up")
	if err := (cachedir.Roots{Host: host}).Prepare(s); err != nil {
		t.Fatal(err)
	}
	checkOwn(t, filepath.Join(host, volume.UserCacheDir("/data/ssd", s.UID())), s.UID())
}

func TestPrepareRefuses(t *testing.T) {
	host, elsewhere := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(host, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	linked := shape("/cache").CacheDirs[0]
	if err := os.Symlink(elsewhere, filepath.Join(host, linked)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir   string
		is    func(error) bool
		plain bool
	}{
		"a link in its place":  {dir: "/cache", is: errdefs.IsFailedPrecondition},
		"below the mounts":     {dir: "/var/lib/juicefs/volume/pv", is: errdefs.IsInvalidArgument},
		"upwards":              {dir: "/a/../../b", is: errdefs.IsInvalidArgument, plain: true},
		"not of the user":      {dir: "/cache", is: errdefs.IsInvalidArgument, plain: true},
		"relative":             {dir: "cache", is: errdefs.IsInvalidArgument},
		"a placeholder's dots": {dir: "/cache/../uid-1", is: errdefs.IsInvalidArgument, plain: true},
	} {
		s := shape(c.dir)
		if c.plain {
			s.CacheDirs = []string{c.dir}
		}
		err := cachedir.Roots{Host: host, Avoid: []string{"/var/lib/juicefs/volume"}}.Prepare(s)
		if !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
		t.Errorf("a link was followed: %v, %v", entries, err)
	}
}
