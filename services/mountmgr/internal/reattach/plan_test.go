package reattach

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// parse reads a mountinfo without its constant parts: id, parent, minor, root,
// path, options and type.
func parse(t *testing.T, lines ...string) []mountinfo.Entry {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		f := strings.Fields(line)
		text.WriteString(f[0] + " " + f[1] + " 0:" + f[2] + " " + f[3] + " " + f[4] + " " + f[5] + " - " + f[6] + " JuiceFS:x rw\n")
	}
	entries, err := mountinfo.Parse(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

const juicefs = "fuse.juicefs"

func connection() Connection { return Connection{Minor: 60, Lost: []uint32{50, 55}} }

func TestPlan(t *testing.T) {
	const root = "1 0 1 / / rw ext4"
	for name, c := range map[string]struct {
		mounts []string
		paths  []string
		steps  []string
		left   []string
	}{
		"nothing is lost": {mounts: []string{"2 1 60 / /data rw " + juicefs}},
		"of any lost connection": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 1 55 /sub /sub ro " + juicefs, "4 1 51 / /other rw " + juicefs},
			steps:  []string{"swap /data", "swap /sub"},
		},
		"a device number of another type": {mounts: []string{"2 1 50 / /data rw tmpfs"}},
		"only the paths that were asked for": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 1 50 / /more rw " + juicefs},
			paths:  []string{"/more"}, steps: []string{"swap /more"},
		},
		"no paths are not all": {mounts: []string{"2 1 50 / /data rw " + juicefs}, paths: []string{}},
		"beneath it is the new one already": {
			mounts: []string{"2 3 50 / /data rw " + juicefs, "3 1 60 / /data rw " + juicefs},
			steps:  []string{"uncover /data"},
		},
		"covered by the new one": {mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 60 / /data rw,nosuid " + juicefs}},
		"covered by a new one that may more": {
			mounts: []string{"2 1 50 / /data ro,nosuid " + juicefs, "3 2 60 / /data rw,nosuid " + juicefs},
			steps:  []string{"restrict /data"},
		},
		"covered by something else": {mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 9 / /data rw tmpfs"}},
		"a stack of lost ones": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 55 / /data rw " + juicefs}, steps: []string{"swap /data"},
		},
		"one inside of the other": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 50 /sub /data/in rw " + juicefs}, steps: []string{"swap /data with /data/in"},
		},
		"another volume inside": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 9 / /data/tmp rw tmpfs"}, left: []string{"/data"},
		},
		"another volume deep inside": {
			mounts: []string{"2 1 50 / /data rw " + juicefs, "3 2 50 / /data/in rw " + juicefs, "4 3 9 / /data/in/tmp rw tmpfs"},
			left:   []string{"/data"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps, left := plan(parse(t, append([]string{root}, c.mounts...)...), connection(), c.paths)
			if diff := cmp.Diff(c.steps, describe(steps)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			var paths []string
			for _, each := range left {
				paths = append(paths, each.Path)
				if each.Reason == "" || each.Retry {
					t.Errorf("left %+v", each)
				}
			}
			if diff := cmp.Diff(c.left, paths); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func describe(steps []step) []string {
	var described []string
	for _, each := range steps {
		text := []string{"swap", "uncover", "restrict"}[each.action] + " " + each.mount.Path
		for _, inner := range each.inner {
			text += " with " + inner.Path
		}
		described = append(described, text)
	}
	return described
}

func TestInside(t *testing.T) {
	for root, want := range map[string]string{"/": "", "/a/b": "a/b", "/a/b//deleted": "a/b"} {
		if got := inside(mountinfo.Entry{Root: root}); got != want {
			t.Errorf("inside(%s) = %q, want %q", root, got, want)
		}
	}
}

func TestPaths(t *testing.T) {
	const pods = "/var/lib/kubelet/pods/"
	targets := []string{pods + "uid-1/volumes/kubernetes.io~csi/pv-1/mount", "/var/lib/kubelet/plugins/other"}
	entries := parse(t,
		"1 0 1 / / rw ext4",
		"2 1 50 / "+targets[0]+" rw "+juicefs,
		"3 1 50 / "+targets[1]+" rw "+juicefs,
		"4 1 50 /a "+pods+"uid-1/volume-subpaths/pv-1/app/0 rw "+juicefs,
		"5 1 50 /a "+pods+"uid-1/volume-subpaths/pv-10/app/0 rw "+juicefs,
		"6 1 50 /a "+pods+"uid-2/volume-subpaths/pv-1/app/0 rw "+juicefs,
		"7 1 60 /a "+pods+"uid-1/volume-subpaths/pv-1/app/1 rw "+juicefs,
		"8 1 50 / /mnt rw "+juicefs,
	)
	want := []string{targets[0], targets[1], pods + "uid-1/volume-subpaths/pv-1/app/0"}
	if diff := cmp.Diff(want, Paths(entries, connection(), "/var/lib/kubelet", targets)); diff != "" {
		t.Error(diff)
	}
	if got := PodUIDs("/var/lib/kubelet", append(targets, targets[0])); !slices.Equal(got, []string{"uid-1"}) {
		t.Errorf("pods %v", got)
	}
	if got := Visible(entries, connection(), targets[:1]); !slices.Equal(got, targets[:1]) {
		t.Errorf("visible %v", got)
	}
}
