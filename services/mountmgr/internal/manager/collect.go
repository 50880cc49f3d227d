package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// PodLister knows the pods of the node.
type PodLister interface {
	// Running returns the uids of all pods that are on the node and have not
	// ended for good. It must fail rather than leave one out.
	Running(ctx context.Context) (uids map[string]bool, err error)
}

const (
	defaultReconcileInterval = 10 * time.Second
	// absences is how many looks in a row must miss a pod before its targets
	// are taken away: a kubelet that has just started does not know all pods.
	absences = 2
)

// collect drops references whose pods are gone, until ctx ends.
func (m *Manager) collect(ctx context.Context) {
	if m.Pods == nil {
		return
	}
	ticker := time.NewTicker(cmp.Or(m.options.ReconcileInterval, defaultReconcileInterval))
	defer ticker.Stop()
	missed := make(map[string]int)
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := m.collectOnce(ctx, missed)
		if err != nil && ctx.Err() == nil && err.Error() != told {
			m.Log.WarnContext(ctx, "references are not checked", logkeys.Error, err)
		}
		told = fmt.Sprint(err)
	}
}

// collectOnce looks at the pods once. missed counts how often the pod of a
// target was not there.
func (m *Manager) collectOnce(ctx context.Context, missed map[string]int) error {
	held := m.references(time.Now())
	if len(held) == 0 {
		clear(missed)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	uids, err := m.Pods.Running(ctx)
	if err != nil {
		return err
	}
	if len(uids) == 0 {
		return errNoPods
	}
	absent := make(map[string]bool)
	for _, reference := range held {
		uid := podOf(reference)
		if uid == "" || uids[uid] {
			continue
		}
		absent[reference.TargetPath] = true
		if missed[reference.TargetPath]++; missed[reference.TargetPath] >= absences {
			m.dropAbandoned(ctx, reference, uid)
		}
	}
	for target := range missed {
		if !absent[target] {
			delete(missed, target)
		}
	}
	return nil
}

// listTimeout bounds one look at the pods, and what follows from it.
const listTimeout = 30 * time.Second

// errNoPods says that the answer cannot be right: this process is in a pod too.
var errNoPods = errors.New("the node has no pod at all")

// references are those that were there before the time.
func (m *Manager) references(before time.Time) []store.Reference {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make([]store.Reference, 0, len(m.index.targets))
	for _, each := range m.index.targets {
		if each.mount != nil && each.reference.Since.Before(before) {
			held = append(held, each.reference)
		}
	}
	return held
}

func podOf(reference store.Reference) string {
	return cmp.Or(reference.Pod.UID, store.PodOfTarget(reference.TargetPath))
}

// dropAbandoned takes the target of a pod that is gone away, with what kubelet
// has bound from it into containers.
func (m *Manager) dropAbandoned(ctx context.Context, reference store.Reference, uid string) {
	target := reference.TargetPath
	unlock, err := m.lockTarget(target)
	if err != nil {
		return // Somebody works on it: it is no garbage.
	}
	defer unlock()
	held := m.byTarget(target)
	if held == nil {
		return
	}
	m.Log.InfoContext(ctx, "target of a pod that is gone", logkeys.TargetPath, target, logkeys.PodUID, uid)
	err = m.detachSubPaths(uid, held.snapshot().DeviceMinor)
	if err == nil {
		err = kernelmount.Remove(target)
	}
	if err == nil {
		err = held.dropReference(target)
	}
	if err != nil {
		m.Log.WarnContext(ctx, "take away the target of a pod that is gone", logkeys.TargetPath, target, logkeys.Error, err)
	}
}

// detachSubPaths detaches what the containers of a pod see of the mount below
// kubelet's volume-subpaths.
func (m *Manager) detachSubPaths(uid string, minor uint32) error {
	entries, err := mountinfo.Below(filepath.Join(m.options.KubeletDir, "pods", uid, "volume-subpaths"))
	if err != nil {
		return err
	}
	for _, entry := range slices.Backward(entries) {
		if entry.FSType != kernelmount.FSType || entry.Minor != minor {
			continue
		}
		if err := kernelmount.DetachAll(entry.Path); err != nil {
			return err
		}
	}
	return nil
}

// detach takes a target away. Without enableLazyUmountTarget it is unmounted
// only when nobody is in it, so that it is gone for all at once; who is in it
// keeps what is then detached as always.
func (m *Manager) detach(ctx context.Context, target string) error {
	if !m.config(ctx).DetachesLazily() {
		return kernelmount.RemoveUnused(target)
	}
	return kernelmount.Remove(target)
}
