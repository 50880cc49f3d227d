package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// migration takes a database from one version to the next.
type migration func(*bolt.Tx) error

// migrations are all of them: the n-th leads from version n to n+1. None is
// ever changed after its release: it works on stored JSON, not on Record.
func migrations() [schemaVersion]migration {
	return [...]migration{fresh, recordLife}
}

// migrate makes the buckets that are missing and runs the missing migrations,
// each in a transaction of its own with the version that it leads to.
func migrate(db *bolt.DB) error {
	var version uint64
	err := db.View(func(tx *bolt.Tx) error {
		if meta := tx.Bucket([]byte(metaBucket)); meta != nil {
			if raw := meta.Get([]byte(versionKey)); len(raw) == 8 {
				version = binary.BigEndian.Uint64(raw)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if version > schemaVersion {
		return fmt.Errorf("store has schema version %d, this release knows %d: run the newer release: %w",
			version, schemaVersion, errdefs.ErrFailedPrecondition)
	}
	if err := db.Update(makeBuckets); err != nil {
		return err
	}
	all := migrations()
	for ; version < schemaVersion; version++ {
		if err := db.Update(func(tx *bolt.Tx) error { return advance(tx, all[version], version+1) }); err != nil {
			return fmt.Errorf("migrate from schema version %d: %w", version, err)
		}
	}
	return nil
}

func advance(tx *bolt.Tx, step migration, version uint64) error {
	if err := step(tx); err != nil {
		return err
	}
	return tx.Bucket([]byte(metaBucket)).Put([]byte(versionKey), binary.BigEndian.AppendUint64(nil, version))
}

func makeBuckets(tx *bolt.Tx) error {
	for _, name := range buckets() {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	return nil
}

// fresh leads to version 1, which has nothing but buckets.
func fresh(*bolt.Tx) error { return nil }

// recordLife leads to version 2. In it a record tells how its mount ends, which
// version 1 left to the settings, and each reference tells its pod's uid where
// the target path does.
func recordLife(tx *bolt.Tx) error {
	mounts := tx.Bucket([]byte(mountsBucket))
	changed := make(map[string][]byte)
	err := mounts.ForEach(func(id, raw []byte) error {
		next, err := recordLifeOf(raw)
		if err != nil {
			return fmt.Errorf("mount %s: %w", id, err)
		}
		changed[string(id)] = next
		return nil
	})
	if err != nil {
		return err
	}
	for id, raw := range changed {
		if err := mounts.Put([]byte(id), raw); err != nil {
			return fmt.Errorf("mount %s: %w", id, err)
		}
	}
	return nil
}

// object is a JSON object whose members are left as they are.
type object = map[string]json.RawMessage

func recordLifeOf(raw []byte) ([]byte, error) {
	var record object
	if err := json.Unmarshal(raw, &record); err != nil {
		return nil, err
	}
	var inputs struct{ Attributes map[string]string }
	if text, ok := record["inputs"]; ok {
		if err := json.Unmarshal(text, &inputs); err != nil {
			return nil, fmt.Errorf("inputs: %w", err)
		}
	}
	if delay, err := time.ParseDuration(inputs.Attributes["juicefs/mount-delete-delay"]); err == nil && delay > 0 {
		record["deleteDelay"] = strconv.AppendInt(nil, int64(delay), 10)
	}
	if clean, err := strconv.ParseBool(inputs.Attributes["juicefs/clean-cache"]); err == nil && clean {
		record["cleanCache"] = json.RawMessage("true")
	}
	if text, ok := record["references"]; ok {
		references, err := nameReferencePods(text)
		if err != nil {
			return nil, fmt.Errorf("references: %w", err)
		}
		record["references"] = references
	}
	return json.Marshal(record)
}

func nameReferencePods(raw json.RawMessage) (json.RawMessage, error) {
	var references []object
	if err := json.Unmarshal(raw, &references); err != nil {
		return nil, err
	}
	for _, reference := range references {
		if err := nameReferencePod(reference); err != nil {
			return nil, err
		}
	}
	return json.Marshal(references)
}

func nameReferencePod(reference object) error {
	var target string
	pod := make(map[string]string)
	if err := json.Unmarshal(reference["targetPath"], &target); err != nil {
		return err
	}
	if text, ok := reference["pod"]; ok {
		if err := json.Unmarshal(text, &pod); err != nil {
			return err
		}
	}
	uid := PodOfTarget(target)
	if pod["uid"] != "" || uid == "" {
		return nil
	}
	pod["uid"] = uid
	text, err := json.Marshal(pod)
	reference["pod"] = text
	return err
}
