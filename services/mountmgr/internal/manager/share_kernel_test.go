//go:build kernel

package manager_test

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// sharingNode is a node whose volumes share.
func sharingNode(t *testing.T, mode volume.ShareMode) *nodetest.Node {
	t.Helper()
	n := nodetest.NewNode(t)
	n.StopManager()
	n.ShareMode = mode
	n.StartManager()
	return n
}

// dynamicVolume makes the objects of a volume as a provisioner does.
func dynamicVolume(t *testing.T, n *nodetest.Node, name, class string) {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid"}}
	claim.Spec.StorageClassName = &class
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pv.Spec.StorageClassName = class
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: "uid"}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: nodetest.Driver, VolumeHandle: name}
	for _, object := range []metav1.Object{claim, pv} {
		var err error
		switch object := object.(type) {
		case *corev1.PersistentVolumeClaim:
			err = n.Kubelet.Client.Tracker().Add(object)
		case *corev1.PersistentVolume:
			err = n.Kubelet.Client.Tracker().Add(object)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func storageClass(t *testing.T, n *nodetest.Node, name, secret string) {
	t.Helper()
	made := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Parameters: map[string]string{"csi.storage.k8s.io/node-publish-secret-name": secret},
	}
	if err := n.Kubelet.Client.Tracker().Add(made); err != nil {
		t.Fatal(err)
	}
}

// share is a publish of a directory of the file system.
type share struct {
	volume, directory string
	target            string
	readOnly, dynamic bool
	secret            map[string]string
}

func (s share) publish(t *testing.T, n *nodetest.Node) (store.Record, error) {
	t.Helper()
	attributes := n.Attributes()
	attributes["subPath"] = s.directory
	if s.dynamic {
		attributes["storage.kubernetes.io/csiProvisionerIdentity"] = "p"
		attributes["capacity"] = "2147483648"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	record, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
		VolumeID: s.volume, TargetPath: s.target, Attributes: attributes, Secret: s.secret, ReadOnly: s.readOnly,
	})
	return record, err
}

func (s share) mustPublish(t *testing.T, n *nodetest.Node) store.Record {
	t.Helper()
	record, err := s.publish(t, n)
	if err != nil {
		t.Fatalf("publish %s: %v", s.volume, err)
	}
	return record
}

func list(n *nodetest.Node, path string, want ...string) error {
	got, err := n.Command("ls", path)
	if names := strings.Fields(got); err == nil && !slices.Equal(names, want) {
		err = fmt.Errorf("%s holds %v instead of %v", path, names, want)
	}
	return err
}

func TestVolumesShareAMount(t *testing.T) {
	for _, mode := range []volume.ShareMode{volume.ShareByStorageClass, volume.ShareByFileSystem} {
		t.Run(string(mode), func(t *testing.T) {
			n := sharingNode(t, mode)
			secret := n.Secret("test")
			storageClass(t, n, "fast", "one")
			for _, name := range []string{"pv-1", "pv-2"} {
				dynamicVolume(t, n, name, "fast")
			}
			one := share{volume: "pv-1", directory: "a/one", target: n.Target("pv-1"), dynamic: true, secret: secret}
			two := share{volume: "pv-2", directory: "two", target: n.Target("pv-2"), dynamic: true, secret: secret}
			first, second := one.mustPublish(t, n), two.mustPublish(t, n)
			if first.ID != second.ID || first.ShareMode != mode {
				t.Fatalf("mounts %s (%s) and %s (%s), want one of mode %s", first.ID, first.ShareMode, second.ID, second.ShareMode, mode)
			}
			eachSeesItsOwn(t, n, one, two)
			eachHasItsQuota(t, secret["metaurl"], one, two)
			readOnlyBesideAWriter(t, n, two)
			if mode == volume.ShareByFileSystem {
				nothingIsMadeReadOnly(t, n, two)
			}

			// A restarted manager knows the directory of each target.
			n.StopManager()
			n.StartManager()
			again := one.mustPublish(t, n)
			if err := read(n, filepath.Join(one.target, "f"), "pv-1"); err != nil || again.ID != first.ID {
				t.Errorf("mount %s after a restart: %v", again.ID, err)
			}
			if err := n.Manager.Unpublish(t.Context(), one.target); err != nil {
				t.Fatal(err)
			}
			write(t, n, filepath.Join(two.target, "g"), "on")
			if err := list(n, two.target, "f", "g"); err != nil {
				t.Error(err)
			}
			if err := n.Manager.Unpublish(t.Context(), two.target); err != nil {
				t.Fatal(err)
			}
			n.Eventually("the mount is gone", func() error { return nothingLeft(n, first) })
		})
	}
}

func eachSeesItsOwn(t *testing.T, n *nodetest.Node, volumes ...share) {
	t.Helper()
	for _, each := range volumes {
		write(t, n, filepath.Join(each.target, "f"), each.volume)
		entry, err := mountinfo.ByPath(each.target)
		if err != nil || entry.Root != "/"+each.directory {
			t.Errorf("%s shows %s, %v", each.target, entry.Root, err)
		}
		mode, err := n.Command("stat", "-c", "%a", each.target)
		if err != nil || strings.TrimSpace(mode) != "777" {
			t.Errorf("mode of %s: %s, %v", each.target, mode, err)
		}
	}
	for _, each := range volumes {
		if err := list(n, each.target, "f"); err != nil {
			t.Error(err)
		}
		if err := read(n, filepath.Join(each.target, "f"), each.volume); err != nil {
			t.Error(err)
		}
	}
}

func eachHasItsQuota(t *testing.T, address string, volumes ...share) {
	t.Helper()
	for _, each := range volumes {
		command := exec.CommandContext(t.Context(), clienttest.Binary(t, "1.4.2"), "quota", "get", address, "--path", "/"+each.directory)
		output, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(output), "2.0 GiB") {
			t.Errorf("quota of %s: %v\n%s", each.directory, err, output)
		}
	}
}

// readOnlyBesideAWriter publishes the volume a second time, read-only.
func readOnlyBesideAWriter(t *testing.T, n *nodetest.Node, writer share) {
	t.Helper()
	reader := writer
	reader.target, reader.readOnly = n.Target("reader"), true
	reader.mustPublish(t, n)
	if err := read(n, filepath.Join(reader.target, "f"), writer.volume); err != nil {
		t.Error(err)
	}
	if output, err := n.Command("touch", filepath.Join(reader.target, "no")); err == nil || !strings.Contains(output, "Read-only") {
		t.Errorf("a write through the read-only target: %v %s", err, output)
	}
	write(t, n, filepath.Join(writer.target, "f"), writer.volume)
	if err := n.Manager.Unpublish(t.Context(), reader.target); err != nil {
		t.Fatal(err)
	}
}

// nothingIsMadeReadOnly publishes a volume whose directory is not there.
func nothingIsMadeReadOnly(t *testing.T, n *nodetest.Node, other share) {
	t.Helper()
	missing := share{volume: "pv-3", directory: "not/there", target: n.Target("missing"), readOnly: true, secret: other.secret}
	if _, err := missing.publish(t, n); err == nil || !strings.Contains(err.Error(), "a read-only mount cannot make it") {
		t.Errorf("a read-only volume whose directory is missing: %v", err)
	}
	if _, err := mountinfo.ByPath(missing.target); err == nil {
		t.Error("its target shows something")
	}
}

// Volumes that may have other credentials, or that no class made, have mounts
// of their own.
func TestVolumesThatDoNotShare(t *testing.T) {
	n := sharingNode(t, volume.ShareByStorageClass)
	storageClass(t, n, "templated", "${pvc.name}")
	dynamicVolume(t, n, "pv-1", "templated")
	dynamicVolume(t, n, "pv-2", "templated")
	dynamicVolume(t, n, "pv-3", "")
	seen := make(map[string]bool)
	for _, each := range []share{
		{volume: "pv-1", directory: "one", dynamic: true},
		{volume: "pv-2", directory: "two", dynamic: true},
		{volume: "pv-3", directory: "three"},
	} {
		each.secret, each.target = n.Secret("test"), n.Target(each.volume)
		record := each.mustPublish(t, n)
		if record.ShareMode != volume.ShareByVolume || seen[record.ID] {
			t.Errorf("%s shares mount %s (%s)", each.volume, record.ID, record.ShareMode)
		}
		seen[record.ID] = true
	}
}

func TestFileSystemsOfOneNameDoNotShare(t *testing.T) {
	n := sharingNode(t, volume.ShareByFileSystem)
	secret := n.Secret("test")
	other := maps.Clone(secret)
	other["metaurl"] = "sqlite3://" + filepath.Join(n.Dir, "data", "other.db")
	other["bucket"] = filepath.Join(n.Dir, "data", "other") + "/"
	one := share{volume: "pv-1", directory: "dir", target: n.Target("pv-1"), secret: secret}
	two := share{volume: "pv-2", directory: "dir", target: n.Target("pv-2"), secret: other}
	three := share{volume: "pv-3", directory: "dir", target: n.Target("pv-3"), secret: secret}
	first, second := one.mustPublish(t, n), two.mustPublish(t, n)
	if first.ShareMode != volume.ShareByFileSystem || second.ShareMode != volume.ShareByVolume {
		t.Errorf("share modes %s and %s", first.ShareMode, second.ShareMode)
	}
	write(t, n, filepath.Join(one.target, "f"), "first")
	if err := list(n, two.target); err != nil {
		t.Error(err)
	}
	if third := three.mustPublish(t, n); third.ID != first.ID {
		t.Errorf("the first file system has the mounts %s and %s", first.ID, third.ID)
	}
	if err := read(n, filepath.Join(three.target, "f"), "first"); err != nil {
		t.Error(err)
	}
}

// A link in a volume must not lead to another volume.
func TestALinkIsNotFollowed(t *testing.T) {
	n := sharingNode(t, volume.ShareByFileSystem)
	one := share{volume: "pv-1", directory: "one", target: n.Target("pv-1"), secret: n.Secret("test")}
	one.mustPublish(t, n)
	if _, err := n.Command("ln", "-s", "/", filepath.Join(one.target, "link")); err != nil {
		t.Fatal(err)
	}
	two := share{volume: "pv-2", directory: "one/link/etc", target: n.Target("pv-2"), secret: n.Secret("test")}
	if record, err := two.publish(t, n); err == nil {
		t.Errorf("published %v", record.References)
	}
	if _, err := mountinfo.ByPath(two.target); err == nil {
		t.Error("its target shows something")
	}
}
