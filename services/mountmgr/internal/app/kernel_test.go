//go:build kernel

package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
)

// asManager is the first argument of a process of this test that is to be a
// mount manager.
const asManager = "mountmgr"

func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != asManager {
		nodetest.Main(m)
		return
	}
	if err := runManager(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runManager(arguments []string) error {
	var options Options
	flags := pflag.NewFlagSet(asManager, pflag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Run(ctx, options)
}

// startManager starts a mount manager in a process of its own on the
// directories of n, and waits until it is ready.
func startManager(t *testing.T, n *nodetest.Node, client mountmgrv1.MountManagerServiceClient, socket string) *exec.Cmd {
	t.Helper()
	in := func(flag, name string) string { return "--" + flag + "=" + filepath.Join(n.Dir, name) }
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", asManager, "--node-name=node", "--mount-mode=process",
		"--endpoint="+socket, "--metrics-address=", "--process-namespaces=/proc/self/ns",
		"--process-cgroup=", "--ce-mount-image="+nodetest.Image,
		in("kubelet-dir", "kubelet"), in("vault", "vault.sock"), in("config", "none.yaml"), in("state-dir", "other-state"),
		in("private-dir", "private"), in("launcher-binary", "launcher/jfs-launch"), in("launcher-dir", "installed"),
		in("mount-dir", "volume"), in("cache-dir", "cache"), in("process-dir", "process"), in("client-dir", "client"))
	cmd.Env = []string{"PATH=/usr/bin:/bin"} // Nothing of Kubernetes.
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount manager is ready", func() error {
		hello, err := client.Handshake(t.Context(), &mountmgrv1.HandshakeRequest{Version: 1, MinVersion: 1})
		if err == nil && !hello.GetReady() {
			err = errors.New("not ready")
		}
		return err
	})
	return cmd
}

// The whole mount manager on a node that has never heard of Kubernetes. It is
// killed while a client serves, which is not its child any more for the next.
func TestANodeWithoutKubernetes(t *testing.T) {
	n := nodetest.NewProcessNode(t)
	n.StopManager()
	socket := "unix://" + filepath.Join(n.Dir, "mountmgr.sock")
	client := mountmgrtest.Dial(t, socket)
	first := startManager(t, n, client, socket)
	target := n.Target("one")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	published, err := client.PublishVolume(ctx, &mountmgrv1.PublishVolumeRequest{
		VolumeId: "pv-1", TargetPath: target, AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
		Secrets: n.Secret("test"), VolumeContext: n.Attributes(),
	})
	if err != nil {
		t.Fatal(err)
	}
	served := published.GetMount()
	if served.GetClient().GetMode() != mountmgrv1.Client_MODE_PROCESS || served.GetClient().GetPodNamespace() != "" {
		t.Errorf("client %v", served.GetClient())
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	if _, err := n.Command("sh", "-c", `echo hello > "$1/f" && cat "$1/f" && rm "$1/f"`, "sh", target); err != nil {
		t.Errorf("while no mount manager runs: %v", err)
	}
	second := startManager(t, n, client, socket)
	found, err := client.GetMount(ctx, &mountmgrv1.GetMountRequest{Id: served.GetId()})
	now := found.GetMount()
	if err != nil || now.GetClient().GetPodUid() != served.GetClient().GetPodUid() || now.GetRecoveries() != 0 {
		t.Errorf("after the restart: %v, %v", now, err)
	}
	if _, err := client.UnpublishVolume(ctx, &mountmgrv1.UnpublishVolumeRequest{VolumeId: "pv-1", TargetPath: target}); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the process is gone", func() error {
		entries, err := os.ReadDir(n.ProcessDir())
		if len(entries) > 0 {
			err = errors.New("a process is left")
		}
		return err
	})
	_ = second.Process.Signal(syscall.SIGTERM)
	if err := second.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
}
