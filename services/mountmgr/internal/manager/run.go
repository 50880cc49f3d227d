package manager

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

// endTimeout bounds the wait for the mounts' goroutines at the end.
const endTimeout = 10 * time.Second

// Run brings the recorded mounts back, keeps the vault filled and follows the
// mount pods until ctx ends. The mounts themselves outlive it.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.Spares.Resume(ctx); err != nil {
		return err
	}
	if err := m.resume(ctx); err != nil {
		return err
	}
	if err := m.resumeSpares(); err != nil { //nolint:contextcheck // What it begins has the lifetime of the mounts.
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.running.Go(func() { m.collect(ctx) })
	m.running.Go(func() { m.cleanCaches(ctx) })
	failed := make(chan error, 3)
	go func() { failed <- m.Spares.Run(ctx, m.shapesInUse) }()
	go func() { failed <- m.Vault.Watch(ctx, m.fillVault) }()
	go func() {
		failed <- m.Host.Watch(ctx, func(pod *corev1.Pod) { m.podChanged(ctx, pod) }, m.podRemoved)
	}()
	err := <-failed
	cancel()
	err = errors.Join(err, <-failed, <-failed)
	m.awaitMounts()
	return err
}

func (m *Manager) awaitMounts() {
	done := make(chan struct{})
	go func() {
		m.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endTimeout):
		m.Log.Warn("mounts did not come to rest in time", logkeys.Duration, endTimeout)
	}
}

// resume reads the records, forgets those of an earlier boot and starts a
// goroutine for each of the others. A mount is recorded before it is made and
// after it is taken away, so there is none without a record.
func (m *Manager) resume(ctx context.Context) error {
	records, err := m.Store.Mounts()
	if err != nil {
		return err
	}
	kept, rebooted := make(map[string]bool), false
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lifetime = ctx
	for _, record := range records {
		if record.BootID != m.options.BootID || record.State == lifecycle.Gone || m.vanished(record) {
			m.Log.InfoContext(ctx, "forgot a mount of an earlier boot", logkeys.MountID, record.ID)
			if err := errors.Join(kernelmount.Remove(record.MountPath), m.Store.DeleteMount(record.ID)); err != nil {
				return err
			}
			rebooted = true
			continue
		}
		kept[record.ID] = true
	}
	if err := m.Secrets.Retain(kept); err != nil {
		return err
	}
	if rebooted {
		m.removeLeftovers(ctx, records, kept)
	}
	for _, record := range records {
		if kept[record.ID] {
			m.adopt(newMount(m, record), record)
		}
	}
	return nil
}

// fillVault deposits what a new vault lacks and removes what no mount needs.
func (m *Manager) fillVault(ctx context.Context) error {
	held, err := m.Vault.List(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, each := range m.all() {
		if !held[each.id] {
			failed = errors.Join(failed, each.keepCustody(ctx))
		}
		delete(held, each.id)
	}
	for stray := range held {
		failed = errors.Join(failed, m.Vault.Remove(ctx, stray))
	}
	return failed
}
