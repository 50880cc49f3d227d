//go:build kernel

package launch_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

func TestRealRemove(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			fs := clienttest.Format(t, clienttest.Binary(t, version))
			p, m, mount, settings := startGood(t, fs, nil)
			mount.Run(t, "sh", "-c", "mkdir -p pv/one/a/b pv/two && echo keep > pv/two/file && echo > pv/file && "+
				"for i in $(seq 300); do echo $i > pv/one/a/b/$i; done")
			mount.Unmount(t)
			m.ended(false)
			p.exits(0)
			for path, want := range map[string]error{
				"/pv/one": nil, "/pv/missing": nil, "/missing/one": nil,
				"/pv/file": errdefs.ErrFailedPrecondition, "/": errdefs.ErrInvalidArgument,
			} {
				err := remove(t, fs, path)
				if (err == nil) != (want == nil) || errors.Is(want, errdefs.ErrInvalidArgument) && !errors.Is(err, want) {
					t.Errorf("%s: got %v, want %v", path, err, want)
				}
			}
			_, _, mount, _ = startGood(t, fs, settings)
			if got := mount.Run(t, "find", "pv"); got != "pv\npv/file\npv/two\npv/two/file\n" && got != "pv\npv/two\npv/two/file\npv/file\n" {
				t.Errorf("left over:\n%s", got)
			}
		})
	}
}

// remove removes path by a client that has no mount point at all.
func remove(t *testing.T, fs clienttest.FileSystem, path string) error {
	t.Helper()
	spec := &launchv1.Spec{Client: &launchv1.Process{Argv: fs.ClientArgv("/nowhere")}}
	return launch.Remove(t.Context(), spec, launch.RemoveOptions{
		OnceOptions: launch.OnceOptions{SpecFile: "-", Output: os.Stderr, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))},
		Path:        path,
	})
}

func TestRealRemoveFails(t *testing.T) {
	fs := clienttest.Format(t, clienttest.Binary(t, clienttest.DefaultVersion))
	fs.Meta = "sqlite3:///nowhere/at-all.db"
	termination := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(termination, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &launchv1.Spec{Client: &launchv1.Process{Argv: fs.ClientArgv("/nowhere")}}
	err := launch.Remove(t.Context(), spec, launch.RemoveOptions{
		OnceOptions: launch.OnceOptions{
			SpecFile: "-", TerminationLog: termination, Output: os.Stderr, Logger: slog.New(slog.DiscardHandler),
		},
		Path: "/volume",
	})
	if err == nil || !strings.Contains(err.Error(), "ended before") {
		t.Errorf("got %v", err)
	}
	data, err := os.ReadFile(termination)
	if err != nil || !strings.Contains(string(data), `"stage":"remove"`) || !strings.Contains(string(data), "is not available") {
		t.Errorf("termination message %s, %v", data, err)
	}
}
