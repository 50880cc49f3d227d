package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

// Fields that are added to a record need no new schema version: an older
// release ignores what it does not know, and a newer one reads what is not
// there as empty. Only a field whose meaning changes needs one.
func TestRecordsOfOtherReleases(t *testing.T) {
	for name, c := range map[string]struct {
		stored string
		want   Record
	}{
		"of a newer release": {
			`{"id":"m1","state":"Serving","unheardOf":{"a":[1]},"references":[{"volumeID":"v","targetPath":"/t","colour":"red"}]}`,
			Record{ID: "m1", State: lifecycle.Serving, References: []Reference{{VolumeID: "v", TargetPath: "/t"}}},
		},
		"of the first release, without access modes": {
			`{"id":"m1","state":"Serving","references":[{"volumeID":"v","targetPath":"/t","readOnly":true}]}`,
			Record{ID: "m1", State: lifecycle.Serving, References: []Reference{{VolumeID: "v", TargetPath: "/t", ReadOnly: true}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			err := s.db.Update(func(tx *bolt.Tx) error {
				return tx.Bucket([]byte(mountsBucket)).Put([]byte("m1"), []byte(c.stored))
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Mounts()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]Record{c.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
