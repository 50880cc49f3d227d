package store

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestRecordsSurviveAReopen(t *testing.T) {
	dir := t.TempDir()
	want := Record{
		ID: "m1", State: lifecycle.Serving, StateSince: time.Unix(5, 0).UTC(), CreatedAt: time.Unix(4, 0).UTC(),
		UniqueID: "pv-1", MountPath: "/m/pv-1-abcdef", DeviceMinor: 77, InitRequest: []byte{1, 2},
		Client:     Client{PodName: "p", PodUID: "u", SessionID: 9, StartedAt: time.Unix(4, 0).UTC()},
		References: []Reference{{VolumeID: "pv-1", TargetPath: "/t", Since: time.Unix(5, 0).UTC()}},
	}
	s := open(t, dir)
	if err := s.PutMount(want); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Mounts()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Record{want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDeleteMountIsIdempotent(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.PutMount(Record{ID: "m1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.DeleteMount("m1"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Mounts(); err != nil || len(got) != 0 {
		t.Errorf("Mounts() = %v, %v after the delete", got, err)
	}
}

func TestInitRequests(t *testing.T) {
	s := open(t, t.TempDir())
	if got, err := s.InitRequest("k"); err != nil || got != nil {
		t.Fatalf("InitRequest of an unknown key = %v, %v", got, err)
	}
	if err := s.PutInitRequest("k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.InitRequest("k"); err != nil || string(got) != "bytes" {
		t.Errorf("InitRequest = %q, %v", got, err)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(versionKey), binary.BigEndian.AppendUint64(nil, schemaVersion+1))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Open = %v, want a failed precondition", err)
	}
}

func TestSecrets(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "secrets") //nolint:usetesting // a tmpfs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := OpenSecrets(filepath.Join(dir, "private"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"keep", "drop"} {
		if err := s.Put(id, map[string]string{"metaurl": "redis://" + id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Retain(map[string]bool{"keep": true}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("keep"); err != nil || got["metaurl"] != "redis://keep" {
		t.Errorf("Get(keep) = %v, %v", got, err)
	}
	if _, err := s.Get("drop"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get(drop) = %v, want not found", err)
	}
	info, err := os.Stat(filepath.Join(dir, "private", "keep"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a secret is %v", info.Mode())
	}
}

func TestSecretsRefuseAnythingButATmpfs(t *testing.T) {
	// sysfs is always there and is never a tmpfs.
	if _, err := OpenSecrets("/sys/kernel"); err == nil {
		t.Error("OpenSecrets accepted a directory that is not on a tmpfs")
	}
}
