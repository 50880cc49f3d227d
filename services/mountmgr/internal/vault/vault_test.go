package vault_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/vault"
)

// pipe returns an end to give away, and the other one, by which a test sees
// whether any duplicate of the first is open.
func pipe(t *testing.T) (given, other *os.File) {
	t.Helper()
	other, given, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	return given, other
}

// open tells whether anybody holds the other end of a pipe.
func open(t *testing.T, other *os.File) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(other.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		t.Fatal(err)
	}
	return fds[0].Revents&unix.POLLHUP == 0
}

func put(t *testing.T, v *vault.Vault, id string, settings []byte, file *os.File) {
	t.Helper()
	if err := v.Put(&vaultv1.Put{MountId: id, Settings: settings, DeviceMinor: 7}, file); err != nil {
		t.Fatal(err)
	}
}

func TestPutReplacesAndClosesTheOlderOne(t *testing.T) {
	v := vault.New()
	older, olderEnd := pipe(t)
	newer, newerEnd := pipe(t)
	put(t, v, "m", []byte("a"), older)
	put(t, v, "m", []byte("b"), newer)
	if open(t, olderEnd) {
		t.Error("the older descriptor is open")
	}
	if !open(t, newerEnd) {
		t.Error("the newer descriptor is closed")
	}
	if list := v.List(); len(list) != 1 || string(list[0].GetSettings()) != "b" {
		t.Errorf("List = %v, want one entry with settings b", list)
	}
}

func TestPutWithoutADescriptorReplacesTheSettings(t *testing.T) {
	v := vault.New()
	file, end := pipe(t)
	put(t, v, "m", nil, file)
	put(t, v, "m", []byte("learned"), nil)
	entry, got, err := v.Get("m")
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Close()
	if string(entry.GetSettings()) != "learned" || entry.GetDeviceMinor() != 7 || !open(t, end) {
		t.Errorf("entry %v, open %v, want the new settings and the old descriptor", entry, open(t, end))
	}
	if err := v.Put(&vaultv1.Put{MountId: "other"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("settings of an unknown mount: %v, want not found", err)
	}
}

func TestARefusedPutClosesItsDescriptor(t *testing.T) {
	file, end := pipe(t)
	if err := vault.New().Put(&vaultv1.Put{}, file); !errdefs.IsInvalidArgument(err) {
		t.Errorf("put without a mount: %v, want an invalid argument", err)
	}
	if open(t, end) {
		t.Error("the descriptor is open")
	}
}

func TestGetGivesADuplicate(t *testing.T) {
	v := vault.New()
	file, end := pipe(t)
	put(t, v, "m", nil, file)
	for range 3 {
		_, got, err := v.Get("m")
		if err != nil {
			t.Fatal(err)
		}
		if got.Fd() == file.Fd() {
			t.Fatal("the vault gave its own descriptor away")
		}
		flags, err := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the duplicate has flags %#x (%v), want close-on-exec", flags, err)
		}
		_ = got.Close()
	}
	if !open(t, end) {
		t.Error("the vault's own descriptor is closed")
	}
	if _, _, err := v.Get("unknown"); !errdefs.IsNotFound(err) {
		t.Errorf("get of an unknown mount: %v, want not found", err)
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	v := vault.New()
	file, end := pipe(t)
	put(t, v, "m", nil, file)
	for range 2 {
		if err := v.Remove("m"); err != nil {
			t.Error(err)
		}
	}
	if open(t, end) || len(v.List()) != 0 {
		t.Errorf("open %v, list %v after the removal", open(t, end), v.List())
	}
}

func TestListIsInOrder(t *testing.T) {
	v := vault.New()
	for _, id := range []string{"c", "a", "b"} {
		file, _ := pipe(t)
		put(t, v, id, nil, file)
	}
	var ids []string
	for _, entry := range v.List() {
		ids = append(ids, entry.GetMountId())
	}
	if !slices.Equal(ids, []string{"a", "b", "c"}) {
		t.Errorf("List = %v", ids)
	}
}

// Concurrent calls leave exactly what is held: no descriptor is lost or closed
// twice, which the race detector and the count of descriptors would tell.
func TestConcurrentUse(t *testing.T) {
	v := vault.New()
	before := descriptors(t)
	var calls sync.WaitGroup
	for worker := range 8 {
		calls.Go(func() {
			for round := range 50 {
				id := fmt.Sprint((worker + round) % 4)
				read, write, err := os.Pipe()
				if err != nil {
					t.Error(err)
					return
				}
				_ = read.Close()
				if err := v.Put(&vaultv1.Put{MountId: id}, write); err != nil {
					t.Error(err)
				}
				if _, got, err := v.Get(id); err == nil {
					_ = got.Close()
				} else if !errdefs.IsNotFound(err) {
					t.Error(err)
				}
				if err := v.Remove(id); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	if held := len(v.List()); held != 0 {
		t.Errorf("%d entries are held after each was removed", held)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
