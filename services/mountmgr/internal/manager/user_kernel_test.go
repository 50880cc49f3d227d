//go:build kernel

package manager_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// TestAMountPodOfAnotherUser checks the whole way with a client that is not
// root: its files, its cache, and the successor of its pod.
func TestAMountPodOfAnotherUser(t *testing.T) {
	const user = 12345
	n := nodetest.NewNode(t)
	if err := os.Chown(filepath.Join(n.Dir, "data"), user, -1); err != nil {
		t.Fatal(err)
	}
	attributes := maps.Clone(n.Attributes())
	attributes["csi.juicefs.com/run-as-user"] = fmt.Sprint(user)
	target := n.Target("one")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	record, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
		VolumeID: "pv-1", TargetPath: target, Attributes: attributes, Secret: n.Secret("test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	checkUser(t, n, record, user)
	write(t, n, filepath.Join(target, "f"), "hello")
	cache := volume.UserCacheDir(filepath.Join(n.Dir, "cache"), user)
	info, err := os.Stat(cache)
	if err != nil {
		t.Fatal(err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != user || info.Mode().Perm() != 0o700 {
		t.Errorf("the cache directory is %+v", info.Sys())
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) == 0 {
		t.Errorf("the client keeps no cache: %v, %v", entries, err)
	}

	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	pods := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace)
	if err := pods.Delete(t.Context(), record.Client.PodName, deleteOptions()); err != nil {
		t.Fatal(err)
	}
	n.Eventually("a successor serves", func() error {
		now := current(t, n, record.ID)
		if now.Client.PodName == record.Client.PodName || now.Successor != nil {
			return fmt.Errorf("client %s, successor %v", now.Client.PodName, now.Successor)
		}
		return nil
	})
	w.AwaitMore(t, 50)
	w.StopAndCheck(t, n)
	checkUser(t, n, current(t, n, record.ID), user)
}

func checkUser(t *testing.T, n *nodetest.Node, record store.Record, user int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Kubelet.PID(record.Client.PodUID)))
	ids := fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d\n", user, user, user, user)
	if err != nil || !strings.Contains(string(status), ids) || record.Client.RunAsUser != uint32(user) {
		t.Errorf("mount pod is not of user %d: %v\n%s", user, err, status)
	}
}
