//go:build kernel

package manager_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// publishWith publishes pv-1 with further attributes.
func publishWith(t *testing.T, n *nodetest.Node, target string, attributes map[string]string) store.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	wanted := request(n, target)
	maps.Copy(wanted.Attributes, attributes)
	record, _, err := n.Manager.Publish(ctx, wanted)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	return record
}

func annotations(t *testing.T, n *nodetest.Node, record store.Record) map[string]string {
	t.Helper()
	pod, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Get(t.Context(), record.Client.PodName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod.Annotations
}

// shown fails unless the mount pod has exactly these references.
func shown(t *testing.T, n *nodetest.Node, record store.Record, targets ...string) error {
	t.Helper()
	var found []string
	for key, value := range annotations(t, n, record) {
		if key == mountpod.ReferenceKey(value) {
			found = append(found, value)
		}
	}
	slices.Sort(found)
	slices.Sort(targets)
	if !slices.Equal(found, targets) {
		return fmt.Errorf("the mount pod shows %d references, want %d", len(found), len(targets))
	}
	return nil
}

// calls counts the calls of the API server that are no part of a watch.
func calls(n *nodetest.Node) map[string]int {
	counts := make(map[string]int)
	for _, action := range n.Kubelet.Client.Actions() {
		if verb := action.GetVerb(); verb != "list" && verb != "watch" {
			counts[verb]++
		}
	}
	return counts
}

func TestAnUnusedMountWaitsForItsDelay(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	delay := map[string]string{"juicefs/mount-delete-delay": "10m"}
	record := publishWith(t, n, target, delay)
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	waits := func() error {
		now := current(t, n, record.ID)
		if now.State != "Serving" || now.DeleteAt.IsZero() {
			return fmt.Errorf("state %s, delete at %v", now.State, now.DeleteAt)
		}
		if got, want := annotations(t, n, now)["juicefs-delete-at"], now.DeleteAt.Format(time.RFC3339); got != want {
			return fmt.Errorf("annotation juicefs-delete-at is %q, want %q", got, want)
		}
		return shown(t, n, now)
	}
	n.Eventually("the mount waits", waits)
	at := current(t, n, record.ID).DeleteAt
	n.StopManager()
	n.StartManager()
	n.Eventually("the mount waits under the next mount manager", waits)
	if now := current(t, n, record.ID); !now.DeleteAt.Equal(at) {
		t.Errorf("delete at %v, was %v", now.DeleteAt, at)
	}
	again := publishWith(t, n, target, delay)
	if again.ID != record.ID || !again.DeleteAt.IsZero() || again.Client != record.Client {
		t.Errorf("published again: mount %s, delete at %v", again.ID, again.DeleteAt)
	}
	n.Eventually("the annotation is gone", func() error {
		if at, ok := annotations(t, n, record)["juicefs-delete-at"]; ok {
			return errors.New(at)
		}
		return shown(t, n, record, target)
	})
	// People may change the delay of a mount pod.
	changeDelay(t, n, record, "1s")
	n.Eventually("the new delay holds", func() error {
		if err := n.Manager.Unpublish(t.Context(), target); err != nil {
			return err
		}
		records := n.Manager.List()
		switch {
		case len(records) == 0:
			return nil
		case records[0].DeleteAt.IsZero():
			return errors.New("the mount is not seen to be unused yet")
		case time.Until(records[0].DeleteAt) > time.Minute:
			publishWith(t, n, target, delay)
			return errors.New("it is not known yet")
		}
		return nil
	})
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}

func changeDelay(t *testing.T, n *nodetest.Node, record store.Record, delay string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"juicefs-delete-delay": delay}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Patch(
		t.Context(), record.Client.PodName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLastMountTakesItsCacheAlong(t *testing.T) {
	n := nodetest.NewNode(t)
	clean := map[string]string{"juicefs/clean-cache": "true"}
	one, two := n.Target("one"), n.Target("two")
	record := publishWith(t, n, one, clean)
	publishWith(t, n, two, clean)
	write(t, n, filepath.Join(one, "f"), strings.Repeat("x", 1<<16))
	if err := read(n, filepath.Join(one, "f"), strings.Repeat("x", 1<<16)); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(n.Dir, "cache", record.FileSystemUUID, "raw")
	chunks, staged := filepath.Join(cache, "chunks", "0", "0"), filepath.Join(cache, "rawstaging", "chunks", "0", "0", "9_0_4")
	for _, file := range []string{filepath.Join(chunks, "8_0_4"), staged} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("blok"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Manager.Unpublish(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(chunks, "8_0_4")); err != nil {
		t.Errorf("while another target is there: %v", err)
	}
	if err := n.Manager.Unpublish(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the cache is clean", func() error {
		entries, err := os.ReadDir(filepath.Join(cache, "chunks"))
		if err != nil || len(entries) > 0 {
			return fmt.Errorf("%v: %w", entries, err)
		}
		return holdsExactly(n, 0)
	})
	if _, err := os.Stat(staged); err != nil {
		t.Errorf("a block that is not uploaded: %v", err)
	}
}

func TestWarmPublishesCostNoRequestAndFewLater(t *testing.T) {
	const count = 50
	n := nodetest.NewNode(t)
	first := n.Target("first")
	record := publish(t, n, "pv-1", first)
	n.Eventually("the mount pod shows its file system", func() error {
		if annotations(t, n, record)["juicefs-uuid"] == "" {
			return errors.New("not yet")
		}
		return nil
	})
	targets := []string{first}
	for i := range count {
		targets = append(targets, n.Target(fmt.Sprintf("t%d", i)))
	}
	n.Kubelet.Client.ClearActions()
	var work sync.WaitGroup
	for _, target := range targets[1:] {
		work.Go(func() {
			if got, _, err := n.Manager.Publish(context.Background(), request(n, target)); err != nil || got.ID != record.ID {
				t.Errorf("publish: mount %s, %v", got.ID, err)
			}
		})
	}
	work.Wait()
	n.Eventually("the mount pod shows all", func() error { return shown(t, n, record, targets...) })
	// Looking costs gets; the mount manager needs patches only.
	if got := calls(n); got["patch"] < 1 || got["patch"] > 5 || got["create"]+got["delete"]+got["update"] > 0 {
		t.Errorf("calls of the API server: %v", got)
	}
	for i, target := range targets[1:] {
		work.Go(func() {
			err := n.Manager.Unpublish(context.Background(), target)
			if err == nil && i%2 == 0 {
				_, _, err = n.Manager.Publish(context.Background(), request(n, target))
			}
			if err != nil {
				t.Errorf("unpublish or publish again: %v", err)
			}
		})
	}
	work.Wait()
	left := []string{first}
	for i, target := range targets[1:] {
		if i%2 == 0 {
			left = append(left, target)
		}
		if entry, err := mountinfo.ByPath(target); (err == nil) != (i%2 == 0) {
			t.Errorf("target %d: %+v, %v", i, entry, err)
		}
	}
	if now := current(t, n, record.ID); len(now.References) != len(left) {
		t.Errorf("%d references, want %d", len(now.References), len(left))
	}
	n.Eventually("the mount pod shows what is left", func() error { return shown(t, n, record, left...) })
	for _, target := range left {
		work.Go(func() {
			if err := n.Manager.Unpublish(context.Background(), target); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}

func TestATargetThatHasLostItsMountIsAttachedAgain(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	write(t, n, filepath.Join(target, "f"), "hello")
	for range 2 {
		if again := publish(t, n, "pv-1", target); again.ID != record.ID || len(again.References) != 1 {
			t.Errorf("published again: %+v", again)
		}
		if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
			t.Error(err)
		}
		if _, err := n.Command("umount", "-l", target); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, n, "pv-1", target)
	if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
		t.Error(err)
	}
	// A call that fails takes nothing away from a running pod.
	wrong := request(n, target)
	wrong.VolumeID = "pv-2"
	if _, _, err := n.Manager.Publish(t.Context(), wrong); err == nil {
		t.Error("another volume was published at the target")
	}
	if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
		t.Error(err)
	}
}

func TestReferencesOfPodsThatAreGoneAreDropped(t *testing.T) {
	n := nodetest.NewNode(t)
	n.Pods = nodetest.NewPodList("app-one", "app-two")
	n.StopManager()
	n.StartManager()
	one, two := n.Target("one"), n.Target("two")
	record := publish(t, n, "pv-1", one)
	publish(t, n, "pv-1", two)
	write(t, n, filepath.Join(two, "f"), "hello")
	bound := filepath.Join(n.KubeletDir(), "pods", "app-one", "volume-subpaths", "pv-1", "c", "0")
	for _, command := range [][]string{
		{"mkdir", filepath.Join(one, "sub")}, {"mkdir", "-p", bound}, {"mount", "--bind", filepath.Join(one, "sub"), bound},
	} {
		if _, err := n.Command(command[0], command[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	there := func(path string) bool {
		_, err := mountinfo.ByPath(path)
		return err == nil
	}
	// Neither a kubelet that fails nor one that knows no pod is believed.
	for _, strange := range []func(){func() { n.Pods.Break(true) }, func() { n.Pods.Break(false); n.Pods.Set() }} {
		strange()
		looks := n.Pods.Looks()
		n.Eventually("kubelet was asked", func() error {
			if n.Pods.Looks() < looks+4 {
				return errors.New("not yet")
			}
			return nil
		})
		if !there(one) || !there(bound) || len(current(t, n, record.ID).References) != 2 {
			t.Fatal("a target was taken away")
		}
	}
	n.Pods.Set("app-two", "another")
	n.Eventually("the reference is dropped", func() error {
		if now := current(t, n, record.ID); len(now.References) != 1 || there(one) || there(bound) {
			return fmt.Errorf("%d references, target %t, sub path %t", len(now.References), there(one), there(bound))
		}
		return nil
	})
	if err := read(n, filepath.Join(two, "f"), "hello"); err != nil {
		t.Error(err)
	}
	n.Pods.Set("another")
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}

func TestNothingOfAnEarlierBootIsLeft(t *testing.T) {
	for name, begin := range map[string]func(*nodetest.Node) error{
		"another boot of the kernel": func(n *nodetest.Node) error { n.BootID = "another"; return nil },
		"a node without a kernel of its own": func(n *nodetest.Node) error {
			return os.RemoveAll(filepath.Join(n.Dir, "private"))
		},
	} {
		t.Run(name, func(t *testing.T) { nothingOfAnEarlierBootIsLeft(t, begin) })
	}
}

func nothingOfAnEarlierBootIsLeft(t *testing.T, begin func(*nodetest.Node) error) {
	t.Helper()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	old := publish(t, n, "pv-1", target)
	n.StopManager()
	n.Kubelet.Kill(old.Client.PodUID)
	n.StopVault()
	for _, path := range []string{target, old.MountPath} {
		if _, err := n.Command("umount", "-l", path); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(n.Dir, "volume", "not-empty")
	leftOver := os.Mkdir(filepath.Join(n.Dir, "volume", "left-over"), 0o700)
	if err := errors.Join(leftOver, os.MkdirAll(filepath.Join(kept, "x"), 0o700), begin(n)); err != nil {
		t.Fatal(err)
	}
	n.StartVault()
	n.StartManager()
	n.Eventually("the earlier boot is forgotten", func() error {
		entries, err := os.ReadDir(filepath.Join(n.Dir, "volume"))
		if err != nil || len(entries) != 1 || entries[0].Name() != "not-empty" {
			return fmt.Errorf("%v: %w", entries, err)
		}
		if err := os.RemoveAll(kept); err != nil {
			return err
		}
		err = holdsExactly(n, 0)
		if err != nil {
			err = errors.Join(err, os.MkdirAll(filepath.Join(kept, "x"), 0o700))
		}
		return err
	})
	made := publish(t, n, "pv-1", target)
	if made.ID == old.ID {
		t.Error("the mount of the earlier boot was published")
	}
	write(t, n, filepath.Join(target, "f"), "hello")
}

// Without lazy unmounting a target that nobody uses is unmounted, and one that
// somebody uses is detached nevertheless.
func TestUnpublishWithoutLazyUnmount(t *testing.T) {
	n := nodetest.NewNode(t)
	off := false
	n.SetConfig(volume.Config{EnableLazyUmountTarget: &off})
	free, busy := n.Target("free"), n.Target("busy")
	publish(t, n, "pv-1", free)
	publish(t, n, "pv-1", busy)
	leave := enter(t, busy)
	for _, target := range []string{free, busy} {
		if err := n.Manager.Unpublish(t.Context(), target); err != nil {
			t.Error(err)
		}
		if _, err := mountinfo.ByPath(target); err == nil {
			t.Errorf("%s is mounted", target)
		}
	}
	leave()
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}

// enter makes a process work in a directory until leave is called.
func enter(t *testing.T, directory string) (leave func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `cd "$1" && echo ready && read wait`, "sh", directory)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("enter %s: %q, %v", directory, line, err)
	}
	return func() {
		_ = stdin.Close()
		_ = cmd.Wait() // It fails to read.
	}
}

var _ manager.PodLister = (*nodetest.PodList)(nil)

// A file system that was formatted a moment ago is not formatted again, unless
// its metadata are gone.
func TestAFileSystemThatIsGoneIsFormattedAgain(t *testing.T) {
	n := nodetest.NewNode(t)
	publish(t, n, "pv-1", n.Target("one"))
	if err := n.Manager.Unpublish(t.Context(), n.Target("one")); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error {
		if left := n.Manager.List(); len(left) > 0 {
			return fmt.Errorf("%d mounts", len(left))
		}
		return nil
	})
	err := errors.Join(os.Remove(filepath.Join(n.Dir, "data", "test.db")), os.RemoveAll(filepath.Join(n.Dir, "data", "test")))
	if err != nil {
		t.Fatal(err)
	}
	publish(t, n, "pv-2", n.Target("two"))
	write(t, n, filepath.Join(n.Target("two"), "f"), "hello")
}
