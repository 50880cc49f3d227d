package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/juicefs-csi/driver/libs/volume"
)

// Spare is a mount pod without a client that belongs to no mount yet.
type Spare struct {
	PodName string `json:"podName"`
	// PodUID is empty until the API server has accepted the pod.
	PodUID string `json:"podUID,omitempty"`
	Image  string `json:"image"`
	// Shape is the key of the shape that the pod was made to.
	Shape     string    `json:"shape"`
	CreatedAt time.Time `json:"createdAt"`
	// RunAsUser is the uid of all that runs in the pod.
	RunAsUser uint32 `json:"runAsUser,omitempty"`
}

// Client is the spare as the client of a mount that takes it.
func (s Spare) Client() Client {
	return Client{PodName: s.PodName, PodUID: s.PodUID, Image: s.Image, Shape: s.Shape, FromSpare: true, RunAsUser: s.RunAsUser}
}

// Shape is a kind of mount pod of which spares are kept.
type Shape struct {
	Key string          `json:"key"`
	Pod volume.PodShape `json:"pod"`
	// LastUsed is when a mount was last seen to have it, to about a minute.
	LastUsed time.Time `json:"lastUsed"`
}

// PutSpare writes a spare; it is on disk when PutSpare returns.
func (s *Store) PutSpare(spare Spare) error { return s.putJSON(sparesBucket, spare.PodName, spare) }

// DeleteSpare forgets a spare. An unknown one is no error.
func (s *Store) DeleteSpare(podName string) error { return s.remove(sparesBucket, podName) }

// Spares returns all spares in the order of their names.
func (s *Store) Spares() ([]Spare, error) { return list[Spare](s, sparesBucket) }

// PutShape writes a shape.
func (s *Store) PutShape(shape Shape) error { return s.putJSON(shapesBucket, shape.Key, shape) }

// DeleteShape forgets a shape. An unknown one is no error.
func (s *Store) DeleteShape(key string) error { return s.remove(shapesBucket, key) }

// Shapes returns all shapes in the order of their keys.
func (s *Store) Shapes() ([]Shape, error) { return list[Shape](s, shapesBucket) }

// TakeSpare writes the record of a mount, to which the spare belongs from then
// on, and forgets the spare, in one transaction: at no time is the pod both or
// neither. The pod is among the unsettled ones until Settle. errdefs.ErrNotFound
// when there is no such spare; nothing is written then.
func (s *Store) TakeSpare(r Record, podName string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode mount %s: %w", r.ID, err)
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		spares, key := tx.Bucket([]byte(sparesBucket)), []byte(podName)
		if spares.Get(key) == nil {
			return errdefs.ErrNotFound
		}
		if err := spares.Delete(key); err != nil {
			return err
		}
		if err := tx.Bucket([]byte(unsettledBucket)).Put(key, []byte(r.ID)); err != nil {
			return err
		}
		return tx.Bucket([]byte(mountsBucket)).Put([]byte(r.ID), raw)
	})
	if err != nil {
		return fmt.Errorf("give spare mount pod %s to mount %s: %w", podName, r.ID, err)
	}
	return nil
}

// Unsettled returns the pods that were spares and whose labels and resources
// are not those of their mounts yet, with the ids of the mounts.
func (s *Store) Unsettled() (map[string]string, error) {
	unsettled := make(map[string]string)
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(unsettledBucket)).ForEach(func(podName, mountID []byte) error {
			unsettled[string(podName)] = string(mountID)
			return nil
		})
	})
	return unsettled, err
}

// Settle says that nothing is left to do for a pod that was a spare.
func (s *Store) Settle(podName string) error { return s.remove(unsettledBucket, podName) }

func (s *Store) putJSON(bucket, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s/%s: %w", bucket, key, err)
	}
	return s.put(bucket, key, raw)
}

func (s *Store) remove(bucket, key string) error {
	err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(key)) })
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", bucket, key, err)
	}
	return nil
}

func list[T any](s *Store, bucket string) ([]T, error) {
	var all []T
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(key, raw []byte) error {
			var each T
			if err := json.Unmarshal(raw, &each); err != nil {
				return fmt.Errorf("decode %s/%s: %w", bucket, key, err)
			}
			all = append(all, each)
			return nil
		})
	})
	return all, err
}
