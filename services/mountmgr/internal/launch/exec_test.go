package launch_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

// TestAStageThatFailsKeepsTheClientFromBeingExecuted: the test would be replaced
// by it.
func TestAStageThatFailsKeepsTheClientFromBeingExecuted(t *testing.T) {
	log := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	spec := &launchv1.Spec{
		MountId: "m1",
		Stages: []*launchv1.Stage{{
			Name: "format", Process: &launchv1.Process{Argv: []string{"/bin/sh", "-c", "echo the cause >&2; exit 3"}},
			Timeout: durationpb.New(10 * time.Second),
		}},
		Client: &launchv1.Process{Argv: []string{"/bin/false"}},
	}
	err = launch.Exec(t.Context(), spec, launch.OnceOptions{
		SpecFile: "spec.json", TerminationLog: log, Output: null, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "format: exit code 3") {
		t.Errorf("Exec = %v", err)
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "the cause") {
		t.Errorf("termination log %q, %v", text, err)
	}
	if err := launch.Exec(t.Context(), &launchv1.Spec{}, launch.OnceOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a spec: %v", err)
	}
}
