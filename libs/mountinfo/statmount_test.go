package mountinfo

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// haveStatmount says whether the kernel of this machine tells about one mount.
func haveStatmount(t *testing.T) bool {
	t.Helper()
	_, err := visible("/proc")
	if errors.Is(err, errTable) {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			t.Fatal(err)
		}
		t.Logf("kernel %s has no complete statmount(2): the table of mounts is read always", unix.ByteSliceToString(name.Release[:]))
		return false
	}
	return true
}

// Both ways to find a mount must tell the same of every mount of this machine.
func TestVisibleAgreesWithTheTable(t *testing.T) {
	if !haveStatmount(t) {
		return
	}
	entries, err := All()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, entry := range entries {
		want, err := inTable(entry.Path)
		if err != nil {
			t.Errorf("%s: %v", entry.Path, err)
			continue
		}
		got, err := visible(entry.Path)
		switch {
		case errors.Is(err, errTable), errdefs.IsNotFound(err) && hidden(entries, want):
			continue
		case err != nil:
			t.Errorf("%s: %v", entry.Path, err)
			continue
		}
		compared++
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-table +statmount):\n%s", entry.Path, diff)
		}
	}
	if compared == 0 {
		t.Error("no mount was compared")
	}
	t.Logf("%d of %d mounts compared", compared, len(entries))
}

// hidden says whether something is mounted over a directory above the mount, by
// a mount that is not among its ancestors.
func hidden(entries []Entry, entry Entry) bool {
	parents := map[int]bool{}
	for id := entry.Parent; !parents[id]; {
		parents[id] = true
		for _, each := range entries {
			if each.ID == id {
				id = each.Parent
			}
		}
	}
	for above := filepath.Dir(entry.Path); ; above = filepath.Dir(above) {
		for _, each := range entries {
			if each.Path == above && !parents[each.ID] {
				return true
			}
		}
		if above == "/" {
			return false
		}
	}
}

func TestVisibleSaysWhatIsNotMounted(t *testing.T) {
	if !haveStatmount(t) {
		return
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, path := range []string{"/proc/self", t.TempDir(), missing, filepath.Join(missing, "too")} {
		if _, err := visible(path); !errdefs.IsNotFound(err) && !errors.Is(err, errTable) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := ByPath(path); !errdefs.IsNotFound(err) {
			t.Errorf("ByPath(%s): %v", path, err)
		}
	}
}

func BenchmarkByPath(b *testing.B) {
	for name, find := range map[string]func(string) (Entry, error){"table": inTable, "default": ByPath} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := find("/proc"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
