package devcluster

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMounts(t *testing.T) {
	const table = `25 30 0:23 / /sys rw,nosuid shared:7 - sysfs none rw
36 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup none rw,cpuset
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 none rw
90 27 0:57 / /mnt/a\040b rw shared:1 master:2 - fuse.juicefs JuiceFS:x rw,user_id=0
91 27 8:1 / /mnt/c rw - fuseblk /dev/sda1 rw
`
	mounts, err := parseMounts(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) != 5 {
		t.Fatalf("got %d mounts", len(mounts))
	}
	if m := mounts[3]; m.target != "/mnt/a b" || !m.isFuse() || m.minor != 57 || m.fsType != "fuse.juicefs" {
		t.Errorf("FUSE mount is %+v", m)
	}
	if mounts[0].isFuse() || !mounts[4].isFuse() {
		t.Error("FUSE mounts are not told from others")
	}
	list := pickHierarchies(mounts)
	if len(list) != 2 || !list[0].cpuset || list[0].unified || !list[1].unified || list[1].cpuset {
		t.Errorf("hierarchies are %+v", list)
	}
	if _, err := parseMounts(strings.NewReader("nonsense\n")); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestParseStat(t *testing.T) {
	const stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0"
	start, state, err := parseStat(stat)
	if err != nil || start != 98765 || state != 'S' {
		t.Errorf("got %d, %c, %v", start, state, err)
	}
	for _, bad := range []string{"", "42 (a", "42 (a) S 1 2"} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestProcessIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, _, err := processStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	p := process{Name: "sleep", PID: cmd.Process.Pid, StartTime: start, BootID: boot}
	for name, other := range map[string]process{
		"earlier process with the pid": {PID: p.PID, StartTime: start - 1, BootID: boot},
		"process of another boot":      {PID: p.PID, StartTime: start, BootID: "other"},
	} {
		if other.alive() {
			t.Errorf("%s counts as alive", name)
		}
		if err := other.signal(unix.SIGKILL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !p.alive() {
		t.Fatal("the process is not alive, or was killed in place of another")
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if p.alive() {
		t.Error("the process is alive after it was killed")
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that is gone: %v", err)
	}
}

func TestOnThreadLeavesOtherThreadsAlone(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // often enough to meet the main thread
		err := onThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("fn runs on the main thread")
			}
			return unix.Unshare(unix.CLONE_NEWUTS)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.Readlink("/proc/self/ns/uts")
	if err != nil || after != before {
		t.Errorf("the process moved from %s to %s (%v)", before, after, err)
	}
	here, err := os.Readlink("/proc/thread-self/ns/uts")
	if err != nil || here != before {
		t.Errorf("this thread moved from %s to %s (%v)", before, here, err)
	}
}
