package probe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

// patience is far more than any of these tests takes.
const patience = 30 * time.Second

// neverAnswers is a path that the probe process of these tests waits for.
const neverAnswers = "/never/answers"

// TestMain makes this program a probe when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "probe" {
		os.Exit(m.Run())
	}
	for os.Args[len(os.Args)-1] == neverAnswers {
		_ = unix.Pause() // Signals of the Go runtime interrupt it.
	}
	if err := probe.Main(os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newProber() *probe.Prober { return probe.New("/proc/self/exe") }

// eventually polls until check is true.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !check() {
		select {
		case <-deadline:
			t.Fatalf("%s: not after %v", what, patience)
		case <-ticker.C:
		}
	}
}

func TestUsageIsThatOfStatfs(t *testing.T) {
	path := t.TempDir()
	usage, err := newProber().Usage(t.Context(), "mount", path)
	if err != nil {
		t.Fatal(err)
	}
	var want unix.Statfs_t
	if err := unix.Statfs(path, &want); err != nil {
		t.Fatal(err)
	}
	if usage.Blocks != want.Blocks || usage.BlockSize != want.Bsize || usage.Inodes != want.Files {
		t.Errorf("usage %+v, want that of %+v", usage, want)
	}
}

func TestAnErrorOfTheFileSystemIsTold(t *testing.T) {
	for name, ask := range map[string]func(path string) error{
		"usage": func(path string) error {
			_, err := newProber().Usage(t.Context(), "mount", path+"/missing")
			return err
		},
		"ready": func(path string) error { _, err := newProber().Ready(t.Context(), path); return err },
	} {
		path := t.TempDir()
		if err := ask(path); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want unavailable with the path", name, err)
		}
	}
}

func TestADeadlineEndsAProbe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newProber().Usage(ctx, "dead", neverAnswers); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("usage = %v, want deadline exceeded", err)
	}
}

func TestProbesThatWaitAreBounded(t *testing.T) {
	const bound = 3
	prober, path := newProber(), t.TempDir()
	prober.Bound(bound)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error, bound)
	for dead := range bound {
		go func() {
			err := error(errdefs.ErrUnavailable)
			for errdefs.IsUnavailable(err) { // The other probe of this test has the place.
				_, err = prober.Usage(ctx, "dead "+strconv.Itoa(dead), neverAnswers)
			}
			results <- err
		}()
	}
	refused := func() bool {
		_, err := prober.Usage(t.Context(), "mount", path)
		return errdefs.IsUnavailable(err)
	}
	eventually(t, "a further probe is refused", refused)
	cancel()
	for range bound {
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	eventually(t, "probes are possible again", func() bool { return !refused() })
}

func TestWakeEndsWhenStopped(t *testing.T) {
	stop, err := newProber().Wake(t.Context(), neverAnswers)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wake process runs", func() bool { return children(t) == 1 })
	stop()
	eventually(t, "the wake process has ended", func() bool { return children(t) == 0 })
}

// children counts the child processes of this one, also those that have ended
// and were not waited for.
func children(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, task := range tasks {
		// A thread may have ended meanwhile.
		list, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		count += len(strings.Fields(string(list)))
	}
	return count
}

func TestMainRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, arguments := range [][]string{nil, {"usage"}, {"what", "/"}, {"usage", "/", "more"}} {
		var output bytes.Buffer
		if err := probe.Main(arguments, &output); !errdefs.IsInvalidArgument(err) || output.Len() > 0 {
			t.Errorf("Main(%q) = %v with output %q, want an invalid argument", arguments, err, &output)
		}
	}
}
