package store

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

// makeVersion1 makes the database of a release with schema version 1.
func makeVersion1(t *testing.T, dir string) {
	t.Helper()
	record, err := os.ReadFile(filepath.Join("testdata", "record-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "mounts.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{"meta", "mounts", "settings"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		if err := tx.Bucket([]byte("mounts")).Put([]byte("5d9d8ef4ac2f1e1a"), record); err != nil {
			return err
		}
		return tx.Bucket([]byte("meta")).Put([]byte("version"), binary.BigEndian.AppendUint64(nil, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADatabaseOfVersion1(t *testing.T) {
	dir := t.TempDir()
	makeVersion1(t, dir)
	for _, round := range []string{"migrated", "opened again"} {
		s := open(t, dir)
		records, err := s.Mounts()
		if err != nil || len(records) != 1 {
			t.Fatalf("%s: %v, %v", round, records, err)
		}
		got := records[0]
		if got.State != lifecycle.Serving || got.Client.SessionID != 18446744073709551615 || got.DeviceMinor != 212 {
			t.Errorf("%s: %+v", round, got)
		}
		if got.DeleteDelay != 5*time.Minute || !got.CleanCache || !got.DeleteAt.IsZero() {
			t.Errorf("%s: delay %v, clean %t, delete at %v", round, got.DeleteDelay, got.CleanCache, got.DeleteAt)
		}
		want := []Pod{{Namespace: "default", Name: "app", UID: "11d4"}, {Namespace: "default", Name: "b", UID: "told"}, {}}
		var pods []Pod
		for _, reference := range got.References {
			pods = append(pods, reference.Pod)
		}
		if diff := cmp.Diff(want, pods); diff != "" {
			t.Errorf("%s: %s", round, diff)
		}
		if got.Inputs.Defaults.ShareMode != volume.ShareByVolume || len(got.Inputs.Attributes) != 2 {
			t.Errorf("%s: inputs %+v", round, got.Inputs)
		}
		if cleanups, err := s.Cleanups(); err != nil || len(cleanups) != 0 {
			t.Errorf("%s: clean-ups %v, %v", round, cleanups, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A migration that fails leaves the database at the version that it had.
func TestAMigrationIsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	makeVersion1(t, dir)
	path := filepath.Join(dir, "mounts.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("mounts")).Put([]byte("zz"), []byte(text)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	put("no JSON")
	if err := migrate(db); err == nil {
		t.Fatal("a record that is no JSON was migrated")
	}
	put(`{"id":"zz"}`)
	if err := migrate(db); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	records, err := open(t, dir).Mounts()
	if err != nil || len(records) != 2 || records[0].DeleteDelay != 5*time.Minute {
		t.Errorf("records %+v, %v", records, err)
	}
}

func TestCleanups(t *testing.T) {
	s := open(t, t.TempDir())
	want := Cleanup{ID: "m1", UniqueID: "pv-1", FileSystemUUID: "u", Directories: []string{"/c"}, Since: time.Unix(5, 0).UTC()}
	if err := s.PutCleanup(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Cleanups()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Cleanup{want}, got); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := s.DeleteCleanup("m1"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Cleanups(); err != nil || len(got) != 0 {
		t.Errorf("after the end: %v, %v", got, err)
	}
}

func TestPodOfTarget(t *testing.T) {
	for target, want := range map[string]string{
		"/var/lib/kubelet/pods/11d4/volumes/kubernetes.io~csi/pv/mount": "11d4",
		"/k/pods/u/volumes/x":        "u",
		"/k/plugins/u/volumes/x":     "",
		"/k/pods/u/volume-subpaths/": "",
		"/volumes/x":                 "",
		"":                           "",
	} {
		if got := PodOfTarget(target); got != want {
			t.Errorf("%q: %q, want %q", target, got, want)
		}
	}
}

func TestWritesOfManyAtOnceAreAllKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var writers sync.WaitGroup
	for i := range 100 {
		writers.Go(func() {
			id := string(rune('a'+i%26)) + string(rune('a'+i/26))
			if err := s.PutMount(Record{ID: id}); err != nil {
				t.Error(err)
			}
			// A change that is refused takes no other with it.
			if err := s.put(mountsBucket, "", nil); err == nil {
				t.Error("an empty key was accepted")
			}
		})
	}
	writers.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if records, err := open(t, dir).Mounts(); err != nil || len(records) != 100 {
		t.Errorf("%d records, %v", len(records), err)
	}
}
