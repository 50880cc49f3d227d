package manager

import (
	"slices"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// index finds references and mounts without looking at all of them. It runs
// under Manager.mu and knows nothing of the records: what it has is written
// before, and taken away after, what is on disk.
type index struct {
	// targets are all references, by target path.
	targets map[string]*claim
	// volumes are the same by volume and target path.
	volumes map[string]map[string]*claim
	// sharers are the mounts by unique id, the oldest first.
	sharers map[string][]*mount
}

// claim is a reference and its mount, which is nil while one is looked for.
type claim struct {
	reference store.Reference
	mount     *mount
}

func newIndex() index {
	return index{
		targets: make(map[string]*claim), volumes: make(map[string]map[string]*claim), sharers: make(map[string][]*mount),
	}
}

// admit compares a wanted reference with those that are there. It returns the
// mount that the target has already: kubelet repeats calls.
func (x *index) admit(wanted store.Reference) (*mount, error) {
	existing := x.targets[wanted.TargetPath]
	if existing != nil {
		if err := conflict(existing.reference, wanted); err != nil {
			return nil, err
		}
	}
	for _, other := range x.volumes[wanted.VolumeID] {
		if err := conflict(other.reference, wanted); err != nil {
			return nil, err
		}
	}
	if existing != nil {
		return existing.mount, nil
	}
	return nil, nil
}

func (x *index) add(reference store.Reference, held *mount) {
	made := &claim{reference: reference, mount: held}
	x.targets[reference.TargetPath] = made
	if x.volumes[reference.VolumeID] == nil {
		x.volumes[reference.VolumeID] = make(map[string]*claim)
	}
	x.volumes[reference.VolumeID][reference.TargetPath] = made
}

// remove forgets the target unless another mount has it.
func (x *index) remove(target string, held *mount) {
	found := x.targets[target]
	if found == nil || found.mount != held {
		return
	}
	delete(x.targets, target)
	delete(x.volumes[found.reference.VolumeID], target)
	if len(x.volumes[found.reference.VolumeID]) == 0 {
		delete(x.volumes, found.reference.VolumeID)
	}
}

func (x *index) addMount(made *mount, record store.Record) {
	if !slices.Contains(x.sharers[record.UniqueID], made) {
		x.sharers[record.UniqueID] = append(x.sharers[record.UniqueID], made)
	}
	for _, reference := range record.References {
		x.add(reference, made)
	}
}

func (x *index) removeMount(gone *mount, record store.Record) {
	left := slices.DeleteFunc(x.sharers[record.UniqueID], func(m *mount) bool { return m == gone })
	if len(left) == 0 {
		delete(x.sharers, record.UniqueID)
	} else {
		x.sharers[record.UniqueID] = left
	}
	for _, reference := range record.References {
		x.remove(reference.TargetPath, gone)
	}
}
