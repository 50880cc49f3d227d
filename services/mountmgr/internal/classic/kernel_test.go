//go:build kernel

package classic_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// TestJFSLaunchBecomesTheClient: pods of ours run no shell.
func TestJFSLaunchBecomesTheClient(t *testing.T) {
	n := nodetest.NewNode(t)
	log := slog.New(slog.DiscardHandler)
	vault := custody.NewClient(filepath.Join(n.Dir, "vault.sock"), log)
	node := classic.New(
		classic.Options{
			Node: "node", Namespace: nodetest.Namespace, MountRoot: n.MountRoot(), ExchangeDir: n.ExchangeDir(), InPod: n.Kubelet.InPod,
		},
		classic.Parts{Client: n.Kubelet.Client, Vault: vault, Prober: probe.New("/proc/self/exe"), Log: log},
	)
	settings, err := volume.Resolve(volume.Inputs{
		VolumeID: "pv-1", Attributes: n.Attributes(), Secret: n.Secret("test"),
		Defaults: volume.Defaults{CommunityImage: nodetest.Image, MountRoot: n.MountRoot(), CacheDir: filepath.Join(n.Dir, "cache")},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.MountRoot(), "pv-1-abcdef")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	client := store.Client{PodName: "juicefs-node-pv-1-abcdef", Mode: store.ModeClassic, Exchange: "uuid-1", SecretName: "spec-1"}
	target := classic.Target{MountID: "m1", MountPath: path, Client: client}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	session, uid, err := node.Create(ctx, classic.Start{
		Target: target, Fresh: true,
		Spec: mountpod.Spec{Name: client.PodName, MountID: "m1", LauncherDir: filepath.Join(n.Dir, "launcher"), Settings: settings},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	serving := awaitServing(ctx, t, session)
	if len(serving.GetSettings()) == 0 {
		t.Error("the INIT request of the connection is not known")
	}
	minor, err := kernelmount.Minor(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kernelmount.Abort(path, minor) })
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.Kubelet.PID(uid)))
	if err != nil || !strings.HasPrefix(string(command), "/bin/mount.juicefs") {
		t.Errorf("process 1 is %q, %v", command, err)
	}
	if _, fuse, err := vault.Get(ctx, "m1"); err != nil {
		t.Error(err)
	} else {
		_ = fuse.Close()
	}
	target.Client.PodUID, target.DeviceMinor = uid, minor
	state, err := session.HandOff(ctx, 15*time.Second)
	if err != nil || n.Kubelet.Running(uid) && session.Process().Running() {
		t.Errorf("hand-off: %v", err)
	}
	t.Logf("state of %d bytes", len(state))
	err = errors.Join(
		node.End(ctx, target), node.Delete(ctx, target.Client, 0), kernelmount.Abort(path, minor), kernelmount.Remove(path),
	)
	if err != nil {
		t.Error(err)
	}
}

func awaitServing(ctx context.Context, t *testing.T, session *classic.Session) *launchv1.Serving {
	t.Helper()
	for {
		select {
		case event := <-session.Events():
			if serving := event.GetServing(); serving != nil {
				return serving
			}
		case <-ctx.Done():
			t.Fatal("the client does not serve")
			return nil
		}
	}
}
