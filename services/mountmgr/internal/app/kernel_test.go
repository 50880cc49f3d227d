//go:build kernel

package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// The whole mount manager on a node that has never heard of Kubernetes.
func TestANodeWithoutKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	n := nodetest.NewProcessNode(t)
	n.StopManager()
	socket := "unix://" + filepath.Join(n.Dir, "mountmgr.sock")
	in := func(flag, name string) string { return "--" + flag + "=" + filepath.Join(n.Dir, name) }
	options := parse(t, "--mount-mode=process", "--endpoint="+socket, "--metrics-address=", "--process-namespaces=/proc/self/ns",
		"--process-cgroup=", "--ce-mount-image="+nodetest.Image,
		in("kubelet-dir", "kubelet"), in("vault", "vault.sock"), in("config", "none.yaml"), in("state-dir", "other-state"),
		in("private-dir", "private"), in("launcher-binary", "launcher/jfs-launch"), in("launcher-dir", "installed"),
		in("mount-dir", "volume"), in("cache-dir", "cache"), in("process-dir", "process"), in("client-dir", "client"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, options) }()
	defer cancel()
	client := mountmgrtest.Dial(t, socket)
	n.Eventually("the mount manager is ready", func() error {
		hello, err := client.Handshake(ctx, &mountmgrv1.HandshakeRequest{Version: 1, MinVersion: 1})
		if err == nil && !hello.GetReady() {
			err = errors.New("not ready")
		}
		return err
	})
	target := n.Target("one")
	callCtx, cancelCall := context.WithTimeout(ctx, 100*time.Second)
	defer cancelCall()
	published, err := client.PublishVolume(callCtx, &mountmgrv1.PublishVolumeRequest{
		VolumeId: "pv-1", TargetPath: target, AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
		Secrets: n.Secret("test"), VolumeContext: n.Attributes(),
	})
	if err != nil {
		t.Fatal(err)
	}
	view := published.GetMount().GetClient()
	if view.GetMode() != mountmgrv1.Client_MODE_PROCESS || view.GetPodNamespace() != "" {
		t.Errorf("client %v", view)
	}
	if _, err := n.Command("sh", "-c", `echo hello > "$1/f" && rm "$1/f"`, "sh", target); err != nil {
		t.Error(err)
	}
	if _, err := client.UnpublishVolume(callCtx, &mountmgrv1.UnpublishVolumeRequest{VolumeId: "pv-1", TargetPath: target}); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the process is gone", func() error {
		entries, err := os.ReadDir(n.ProcessDir())
		if len(entries) > 0 {
			err = errors.New("a process is left")
		}
		return err
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
}
