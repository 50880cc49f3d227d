//go:build kernel

package manager_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// application is all that shows a mount: two targets, a directory and a file of
// the first as subPath, and copies of them in a container that gets no mount
// events; and a read-only target, which has a mount of its own.
type application struct {
	n                *nodetest.Node
	records          []store.Record
	one, two, three  string
	subDir, subFile  string
	container        *nodetest.Container
	inside, insideRO string
	insideSub        string
	watchers         []*watcher
}

func startApplication(t *testing.T, n *nodetest.Node) *application {
	t.Helper()
	a := &application{
		n: n, one: n.Target("one"), two: n.Target("two"), three: n.Target("three"),
		subDir:  filepath.Join(n.KubeletDir(), "pods/app-one/volume-subpaths/one/app/0"),
		subFile: filepath.Join(n.KubeletDir(), "pods/app-one/volume-subpaths/one/app/1"),
		inside:  filepath.Join(n.Dir, "data"), insideRO: filepath.Join(n.Dir, "data-ro"), insideSub: filepath.Join(n.Dir, "data-sub"),
	}
	first := publish(t, n, "pv-1", a.one)
	if second := publish(t, n, "pv-1", a.two); second.ID != first.ID {
		t.Fatal("two targets have two mounts")
	}
	readOnly, _, err := n.Manager.Publish(t.Context(), manager.PublishRequest{
		VolumeID: "pv-1", TargetPath: a.three, Attributes: n.Attributes(), Secret: n.Secret("test"), ReadOnly: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.records = []store.Record{first, readOnly}
	run(t, n, "mkdir", "-p", a.one+"/sub/dir")
	write(t, n, a.one+"/f", "hello")
	write(t, n, a.one+"/sub/dir/f", "below")
	for source, target := range map[string]string{"/sub/dir": a.subDir, "/sub/dir/f": a.subFile} {
		run(t, n, "mkdir", "-p", filepath.Dir(target))
		run(t, n, map[bool]string{true: "touch", false: "mkdir"}[strings.HasSuffix(source, "/f")], target)
		run(t, n, "mount", "--bind", a.one+source, target)
	}
	run(t, n, "mount", "-o", "remount,bind,ro", a.subDir)
	a.container = n.StartContainer("one",
		nodetest.Mount{Source: a.one, Path: a.inside}, nodetest.Mount{Source: a.one, Path: a.insideRO, ReadOnly: true},
		nodetest.Mount{Source: a.subDir, Path: a.insideSub}, nodetest.Mount{Source: a.subDir, Path: a.inside + "/sub/dir"})
	for _, path := range []string{a.one, a.two, a.three} {
		a.watchers = append(a.watchers, watch(t, path))
	}
	if err := a.works(); err != nil {
		t.Fatalf("before anything happened: %v", err)
	}
	return a
}

func run(t *testing.T, n *nodetest.Node, name string, args ...string) {
	t.Helper()
	if _, err := n.Command(name, args...); err != nil {
		t.Fatal(err)
	}
}

// works fails unless everything shows the files, with the access it had.
func (a *application) works() error {
	in := func(path, want string) error {
		got, err := a.container.Command("cat", path)
		if err == nil && got != want {
			err = fmt.Errorf("%s holds %q in the container", path, got)
		}
		return err
	}
	err := errors.Join(
		read(a.n, a.one+"/f", "hello"), read(a.n, a.two+"/f", "hello"), read(a.n, a.three+"/f", "hello"),
		read(a.n, a.subDir+"/f", "below"), read(a.n, a.subFile, "below"),
		in(a.inside+"/f", "hello"), in(a.insideRO+"/f", "hello"), in(a.insideSub+"/f", "below"), in(a.inside+"/sub/dir/f", "below"),
	)
	if err != nil {
		return err
	}
	for _, path := range []string{a.three, a.subDir} {
		if _, err := a.n.Command("touch", path+"/new"); err == nil || !strings.Contains(err.Error(), "Read-only") {
			return fmt.Errorf("write to %s: %w", path, err)
		}
	}
	for _, path := range []string{a.insideRO, a.insideSub, a.inside + "/sub/dir"} {
		if _, err := a.container.Command("touch", path+"/new"); err == nil || !strings.Contains(err.Error(), "Read-only") {
			return fmt.Errorf("write to %s in the container: %w", path, err)
		}
	}
	_, err = a.container.Command("touch", a.inside+"/written")
	return err
}

// servesAgain waits until mounts are served on other connections than these,
// which it then updates.
func (a *application) servesAgain(t *testing.T, records []store.Record) {
	t.Helper()
	for i, record := range records {
		a.n.Eventually("the mount serves again", func() error {
			now := current(t, a.n, record.ID)
			if now.State != "Serving" || now.DeviceMinor == record.DeviceMinor || len(now.Previous) > 0 || now.Message != "" {
				return fmt.Errorf("state %s on device %d, %s: %s, previous %v", now.State, now.DeviceMinor, now.Reason, now.Message, now.Previous)
			}
			return a.n.Held(record.ID)
		})
		records[i] = current(t, a.n, record.ID)
	}
}

// recovers waits until everything works with another connection.
func (a *application) recovers(t *testing.T) {
	t.Helper()
	a.servesAgain(t, a.records)
	if err := a.works(); err != nil {
		t.Error(err)
	}
	for _, watcher := range a.watchers {
		watcher.check(t)
	}
	for _, path := range []string{a.one, a.two, a.three, a.subDir, a.subFile} {
		if stack := mountsAt(t, path); len(stack) != 1 {
			t.Errorf("%s has %d mounts: %+v", path, len(stack), stack)
		}
	}
}

func mountsAt(t *testing.T, path string) []mountinfo.Entry {
	t.Helper()
	entries, err := mountinfo.All()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(entries, func(entry mountinfo.Entry) bool { return entry.Path != path })
}

func (a *application) stop(t *testing.T) {
	t.Helper()
	_ = a.container.Stop()
	for _, path := range []string{a.subDir, a.subFile} {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	for _, target := range []string{a.one, a.two, a.three} {
		if err := a.n.Manager.Unpublish(t.Context(), target); err != nil {
			t.Error(err)
		}
	}
	a.n.Eventually("the mount is gone", func() error { return nothingLeft(a.n, a.records[0]) })
}

// watcher lists a directory again and again in a process of its own, and tells
// when it saw anything but errors and the volume.
type watcher struct {
	cmd    *exec.Cmd
	output strings.Builder
}

const watcherProgram = `
import os, sys, time
seen = errors = 0
longest, causes = 0, set()
while not os.path.exists(sys.argv[2]):
    began = time.monotonic()
    try:
        names = os.listdir(sys.argv[1])
    except OSError as e:
        errors += 1
        causes.add(e.strerror)
        if e.errno == 2:
            print("bad: no directory", flush=True)
    else:
        seen += 1
        if "f" not in names:
            print("bad:", names, flush=True)
    longest = max(longest, time.monotonic() - began)
print(seen, "listings", errors, "errors", causes, "longest %d ms" % (longest * 1000), flush=True)
`

func watch(t *testing.T, path string) *watcher {
	t.Helper()
	stop := filepath.Join(t.TempDir(), "stop")
	w := &watcher{cmd: exec.Command("python3", "-c", watcherProgram, path, stop)}
	w.cmd.Stdout, w.cmd.Stderr = &w.output, os.Stderr
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	return w
}

// check ends the watcher.
func (w *watcher) check(t *testing.T) {
	t.Helper()
	if w.cmd.ProcessState != nil {
		return
	}
	if err := os.WriteFile(w.cmd.Args[len(w.cmd.Args)-1], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := w.cmd.Wait()
	if err != nil || strings.Contains(w.output.String(), "bad") {
		t.Errorf("the watcher ended with %v:\n%s", err, w.output.String())
	}
	t.Log(w.output.String())
}

// abort does what an administrator can do to a connection.
func abort(t *testing.T, records []store.Record) {
	t.Helper()
	for _, record := range records {
		path := "/sys/fs/fuse/connections/" + strconv.Itoa(int(record.DeviceMinor)) + "/abort"
		if err := os.WriteFile(path, []byte("1"), 0o200); err != nil {
			t.Fatal(err)
		}
	}
}

// newNode is a node on which mount events go from the mount manager's
// directories to others of the same group, as on every real one, or on which
// there are none.
func newNode(t *testing.T, shared bool) *nodetest.Node {
	t.Helper()
	n := nodetest.NewNode(t)
	if !shared {
		return n
	}
	// The directory of mounts is so on every node.
	if err := unix.Mount(n.KubeletDir(), n.KubeletDir(), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", n.KubeletDir(), "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestALostConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		shared bool
		lose   func(*testing.T, *nodetest.Node, []store.Record)
	}{
		{"aborted", false, func(t *testing.T, _ *nodetest.Node, r []store.Record) { t.Helper(); abort(t, r) }},
		{"aborted, shared", true, func(t *testing.T, _ *nodetest.Node, r []store.Record) { t.Helper(); abort(t, r) }},
		{"aborted while the manager is away", true, func(t *testing.T, n *nodetest.Node, r []store.Record) {
			t.Helper()
			n.StopManager()
			abort(t, r)
			n.StartManager()
		}},
		{"everybody killed at once", true, func(t *testing.T, n *nodetest.Node, r []store.Record) {
			t.Helper()
			n.StopManager()
			n.StopVault()
			for _, record := range r {
				n.Kubelet.Kill(record.Client.PodUID)
			}
			n.StartVault()
			n.StartManager()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, c.shared)
			a := startApplication(t, n)
			for range 2 {
				c.lose(t, n, a.records)
				a.recovers(t)
			}
			a.stop(t)
		})
	}
}

// A mount manager that ends at any moment of it leaves the rest to the next.
func TestAManagerEndsWhileItRemounts(t *testing.T) {
	t.Parallel()
	n := newNode(t, true)
	a := startApplication(t, n)
	for change := 1; ; change++ {
		if change > 40 {
			t.Fatalf("a remount takes %d changes of the record", change)
		}
		present, changes, stop := n.Manager.Watch()
		if len(present) != len(a.records) {
			t.Fatalf("%d mounts", len(present))
		}
		abort(t, a.records[:1])
		last := awaitChange(t, changes, a.records[0].ID, change)
		stop()
		n.StopManager()
		n.StartManager()
		done := last.State == "Serving" && last.DeviceMinor != a.records[0].DeviceMinor && len(last.Previous) == 0
		a.servesAgain(t, a.records[:1])
		if err := a.works(); err != nil {
			t.Errorf("after change %d (state %s): %v", change, last.State, err)
		}
		if done {
			t.Logf("%d changes", change)
			break
		}
	}
	for _, watcher := range a.watchers {
		watcher.check(t)
	}
	a.stop(t)
}

// awaitChange returns a mount's record as it was at its count-th change, or
// when the mount serves again before.
func awaitChange(t *testing.T, changes <-chan store.Record, id string, count int) store.Record {
	t.Helper()
	timeout := time.NewTimer(60 * time.Second)
	defer timeout.Stop()
	for left := false; ; {
		select {
		case <-timeout.C:
			t.Fatal("no change")
		case record := <-changes:
			if record.ID != id {
				continue
			}
			count--
			left = left || record.State != "Serving"
			if count == 0 || left && record.State == "Serving" && len(record.Previous) == 0 {
				return record
			}
		}
	}
}

// A mount point of the node that somebody has unmounted is put back; the
// connection goes on.
func TestAMountPathThatWasUnmountedIsPutBack(t *testing.T) {
	n := newNode(t, false)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	write(t, n, target+"/f", "hello")
	n.StopManager()
	if err := unix.Unmount(record.MountPath, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	n.StartManager()
	n.Eventually("it is put back", func() error {
		if shown := mountsAt(t, record.MountPath); len(shown) != 1 || shown[0].Minor != record.DeviceMinor {
			return fmt.Errorf("%s shows %+v", record.MountPath, shown)
		}
		return nil
	})
	other := n.Target("two")
	publish(t, n, "pv-1", other)
	if err := errors.Join(read(n, target+"/f", "hello"), read(n, other+"/f", "hello")); err != nil {
		t.Error(err)
	}
}

// All that showed a mount on the node was unmounted: it is made again.
func TestAMountThatWasUnmountedEverywhereIsMadeAgain(t *testing.T) {
	n := newNode(t, false)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	write(t, n, target+"/f", "hello")
	n.StopManager()
	for _, path := range []string{target, record.MountPath} {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	n.StartManager()
	n.Eventually("it serves again", func() error { return read(n, target+"/f", "hello") })
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, current0(n)) })
}

func current0(n *nodetest.Node) store.Record {
	if mounts := n.Manager.List(); len(mounts) > 0 {
		return mounts[0]
	}
	return store.Record{}
}

// A pod that starts while a mount is lost waits and gets the new connection; an
// engine that is away delays it.
func TestAPublishWaitsForARemount(t *testing.T) {
	n := newNode(t, false)
	target, other := n.Target("one"), n.Target("two")
	record := publish(t, n, "pv-1", target)
	write(t, n, target+"/f", "hello")
	engine := filepath.Join(n.Dir, "data", "test.db")
	if err := os.Rename(engine, engine+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(engine, 0o700); err != nil {
		t.Fatal(err)
	}
	abort(t, []store.Record{record})
	n.Eventually("a remount has failed", func() error {
		if now := current(t, n, record.ID); now.Reason != "RemountFailed" {
			return fmt.Errorf("%s %s", now.State, now.Reason)
		}
		return nil
	})
	if err := os.Remove(engine); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(engine+".away", engine); err != nil {
		t.Fatal(err)
	}
	if joined := publish(t, n, "pv-1", other); joined.ID != record.ID {
		t.Errorf("the new target has mount %s", joined.ID)
	}
	if err := errors.Join(read(n, target+"/f", "hello"), read(n, other+"/f", "hello")); err != nil {
		t.Error(err)
	}
}
