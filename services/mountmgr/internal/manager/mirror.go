package manager

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// mirrorQuiet is how long a mount must not have changed before its pod is
	// told, and mirrorPatience how long it is not told at the most: what comes
	// in between is one request to the API server.
	mirrorQuiet    = 2 * time.Second
	mirrorPatience = 10 * time.Second
	// mirrorTimeout bounds the request.
	mirrorTimeout = 30 * time.Second
)

// mirror copies what people and other tools look for on a mount pod from the
// record to the pod's annotations, some time later: the store is the truth.
type mirror struct{ changed chan struct{} }

func newMirror() mirror { return mirror{changed: make(chan struct{}, 1)} }

// note tells the mirror of a change of the record, if it shows it.
func (m mirror) note(before, after *store.Record) {
	if !maps.Equal(mirrored(before), mirrored(after)) || before.Client.PodUID != after.Client.PodUID {
		m.poke()
	}
}

func (m mirror) poke() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// mirrored are the annotations that a record wants.
func mirrored(record *store.Record) map[string]string {
	wanted := make(map[string]string, len(record.References)+2)
	for _, reference := range record.References {
		wanted[mountpod.ReferenceKey(reference.TargetPath)] = reference.TargetPath
	}
	if !record.DeleteAt.IsZero() {
		wanted[mountpod.DeleteAtAnnotation] = record.DeleteAt.Format(time.RFC3339)
	}
	if record.FileSystemUUID != "" {
		wanted[mountpod.UUIDAnnotation] = record.FileSystemUUID
	}
	return wanted
}

// isMirrored tells whether an annotation is one that mirrored may want.
func isMirrored(key, value string) bool {
	switch key {
	case mountpod.DeleteAtAnnotation, mountpod.UUIDAnnotation:
		return true
	}
	return strings.HasPrefix(key, "juicefs-") && key == mountpod.ReferenceKey(value)
}

// difference is what makes present as it is wanted: nil values are removed.
func difference(wanted, present map[string]string) map[string]*string {
	changes := make(map[string]*string)
	for key, value := range wanted {
		if has, ok := present[key]; !ok || has != value {
			changes[key] = &value
		}
	}
	for key, value := range present {
		if _, ok := wanted[key]; !ok && isMirrored(key, value) {
			changes[key] = nil
		}
	}
	return changes
}

// keepMirror runs until ctx ends.
func (m *mount) keepMirror(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.mirror.changed:
		}
		m.awaitQuiet(ctx)
		if ctx.Err() != nil {
			return
		}
		if err := m.showOnPod(ctx); err != nil && ctx.Err() == nil {
			m.log.WarnContext(ctx, "annotate mount pod", logkeys.Error, err)
			pause(ctx, mirrorPatience)
			m.mirror.poke()
		}
	}
}

// awaitQuiet returns when the mount has not changed for a while, or has for too
// long.
func (m *mount) awaitQuiet(ctx context.Context) {
	quiet, limit := time.NewTimer(mirrorQuiet), time.NewTimer(mirrorPatience)
	defer quiet.Stop()
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			return
		case <-quiet.C:
			return
		case <-m.mirror.changed:
			quiet.Reset(mirrorQuiet)
		}
	}
}

// showOnPod makes the annotations of the serving pod what the record says. A
// pod that the API server has not told of yet comes later.
func (m *mount) showOnPod(ctx context.Context) error {
	record := m.snapshot()
	state, _ := m.pod(record.Client.PodUID)
	unused := len(record.References) == 0 && record.DeleteAt.IsZero()
	if record.State.Ended() || !state.known || state.deleting || unused {
		return nil
	}
	changes := difference(mirrored(&record), state.annotations)
	if len(changes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	if err := m.manager.Host.Annotate(ctx, record.Client, changes); err != nil {
		return err
	}
	m.noteAnnotations(record.Client.PodUID, changes)
	return nil
}

// noteAnnotations takes over what the pod has now, before the API server tells.
func (m *mount) noteAnnotations(podUID string, changes map[string]*string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, ok := m.pods[podUID]
	if !ok {
		return
	}
	present := maps.Clone(state.annotations)
	if present == nil {
		present = make(map[string]string)
	}
	for key, value := range changes {
		if value != nil {
			present[key] = *value
		} else {
			delete(present, key)
		}
	}
	state.annotations = present
	m.pods[podUID] = state
}
