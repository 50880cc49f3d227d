//go:build kernel

package manager_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
)

// opens counts how often this process opens its table of mounts while act runs.
func opens(t *testing.T, act func()) int {
	t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch) //nolint:errcheck // a test
	if _, err := unix.InotifyAddWatch(watch, fmt.Sprintf("/proc/%d/mountinfo", os.Getpid()), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	act()
	count, buffer := 0, make([]byte, 4096)
	for {
		size, err := unix.Read(watch, buffer)
		if err != nil || size <= 0 {
			return count
		}
		count += size / unix.SizeofInotifyEvent
	}
}

// tellsOneMount is true for kernels that tell about one mount alone.
func tellsOneMount(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	fields := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	major, errMajor := strconv.Atoi(fields[0])
	minor, errMinor := strconv.Atoi(fields[1])
	if errMajor != nil || errMinor != nil {
		t.Fatalf("release %s", name.Release)
	}
	return major > 6 || major == 6 && minor >= 14
}

func TestAWarmPublishDoesNotReadTheTableOfMounts(t *testing.T) {
	n := nodetest.NewNode(t)
	if opens(t, func() { _, _ = mountinfo.All() }) == 0 {
		t.Fatal("reading the table of mounts is not noticed")
	}
	publish(t, n, "pv-1", n.Target("first"))
	var took []time.Duration
	for i := range 20 {
		target := n.Target(fmt.Sprintf("t%d", i))
		read := opens(t, func() {
			began := time.Now()
			if _, _, err := n.Manager.Publish(context.Background(), request(n, target)); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(began))
			if _, _, err := n.Manager.Publish(context.Background(), request(n, target)); err != nil {
				t.Fatal(err)
			}
		})
		read += opens(t, func() {
			if err := n.Manager.Unpublish(context.Background(), target); err != nil {
				t.Fatal(err)
			}
		})
		if read > 0 && tellsOneMount(t) {
			t.Errorf("the table of mounts was read %d times", read)
		}
	}
	slices.Sort(took)
	t.Logf("a warm publish took %v, at the most %v", took[len(took)/2], took[len(took)-1])
}
