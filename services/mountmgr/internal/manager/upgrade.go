package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// UpgradeRequest asks for a new client of a mount, in a new mount pod under the
// present configuration.
type UpgradeRequest struct {
	// Image replaces the configured one; empty for the configured.
	Image string
	// StallBudget is how long nobody may serve before the old settings are
	// tried again; 0 for 10 s.
	StallBudget time.Duration
}

// errAborted is the cause of a roll-back that somebody asked for.
var errAborted = errors.New("aborted on request")

// PlanUpgrade says what an upgrade would change, and changes nothing.
func (m *Manager) PlanUpgrade(mountID string, request UpgradeRequest) (Plan, error) {
	found, err := m.find(mountID)
	if err != nil {
		return Plan{}, err
	}
	_, plan, err := found.plan(request)
	plan.ExpectedPause = m.pauses.longest()
	return plan, err
}

// Upgrade replaces the client of a mount and calls tell with each phase that it
// reaches; it joins an upgrade that runs. It returns when the upgrade has ended;
// when ctx ends or tell fails, the upgrade goes on without it.
func (m *Manager) Upgrade(ctx context.Context, mountID string, request UpgradeRequest, tell func(store.Upgrade) error) error {
	found, err := m.find(mountID)
	if err != nil {
		return err
	}
	_, changes, stop := m.Watch()
	defer stop()
	upgrade, err := found.beginUpgrade(request)
	if err != nil {
		return err
	}
	for told := store.UpgradePhase(""); ; {
		if told == "" || told.Before(upgrade.Phase) {
			told = upgrade.Phase
			if err := tell(upgrade); err != nil || told.Ended() {
				return err
			}
		}
		if upgrade, err = nextUpgrade(ctx, changes, mountID, upgrade.ID); err != nil {
			return err
		}
	}
}

func nextUpgrade(ctx context.Context, changes <-chan store.Record, mountID, upgradeID string) (store.Upgrade, error) {
	for {
		select {
		case <-ctx.Done():
			return store.Upgrade{}, ctx.Err()
		case record, open := <-changes:
			if !open {
				return store.Upgrade{}, fmt.Errorf("upgrade %s is told too slowly: %w", upgradeID, errdefs.ErrResourceExhausted)
			}
			if record.ID == mountID && record.Upgrade != nil && record.Upgrade.ID == upgradeID {
				return *record.Upgrade, nil
			}
		}
	}
}

// AbortUpgrade rolls a running upgrade back and returns when that is done.
// errdefs.ErrFailedPrecondition once the old client was told to go.
func (m *Manager) AbortUpgrade(ctx context.Context, mountID, upgradeID string) (store.Upgrade, error) {
	found, err := m.find(mountID)
	if err != nil {
		return store.Upgrade{}, err
	}
	_, changes, stop := m.Watch()
	defer stop()
	upgrade, err := found.abortUpgrade(upgradeID)
	for err == nil && !upgrade.Phase.Ended() {
		upgrade, err = nextUpgrade(ctx, changes, mountID, upgradeID)
	}
	return upgrade, err
}

func (m *Manager) find(mountID string) (*mount, error) {
	m.mu.Lock()
	found := m.mounts[mountID]
	m.mu.Unlock()
	if found == nil || found.snapshot().State == lifecycle.Gone {
		return nil, fmt.Errorf("mount %s: %w", mountID, errdefs.ErrNotFound)
	}
	return found, nil
}

// plan resolves the settings under the present configuration.
func (m *mount) plan(request UpgradeRequest) (store.Upgrade, Plan, error) {
	record := m.snapshot()
	running, err := m.resolve(record, record.Inputs, record.Image)
	if err != nil {
		return store.Upgrade{}, Plan{}, err
	}
	running.Pod.Image = cmp.Or(record.Client.Image, running.Pod.Image)
	running = asAdopted(record, running)
	inputs := record.Inputs
	if inputs.Config, err = m.manager.options.Config(); err != nil {
		return store.Upgrade{}, Plan{}, fmt.Errorf("driver configuration: %w", err)
	}
	inputs.Defaults = m.manager.options.Defaults
	// Targets show what is shared now.
	inputs.Defaults.ShareMode = record.Inputs.Defaults.ShareMode
	if inputs.Node, err = m.manager.node(inputs.Config); err != nil {
		return store.Upgrade{}, Plan{}, err
	}
	wanted, err := m.resolve(record, inputs, request.Image)
	if err != nil {
		return store.Upgrade{}, Plan{}, err
	}
	upgrade := store.Upgrade{
		ID: randomID(), Phase: store.UpgradePlanned, StartedAt: time.Now().UTC(), StallBudget: request.StallBudget,
		FromImage: running.Pod.Image, ToImage: wanted.Pod.Image, FromVersion: record.Client.Version,
		Inputs: inputs, Image: request.Image,
	}
	plan := newPlan(running, wanted)
	plan.Changes = append(plan.Changes, m.manager.changeOfMode(record.Client, wanted)...)
	return upgrade, plan, nil
}

// beginUpgrade records an upgrade for run to carry out, or returns the running
// one.
func (m *mount) beginUpgrade(request UpgradeRequest) (store.Upgrade, error) {
	if running := m.snapshot().Upgrade; running.Running() {
		return *running, nil
	}
	upgrade, plan, err := m.plan(request)
	if err == nil && !plan.CanHandOver {
		err = fmt.Errorf("upgrade of mount %s: %s: %w", m.id, plan.Message, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return store.Upgrade{}, err
	}
	err = m.update(func(r *store.Record) error {
		switch {
		case r.Upgrade.Running():
			upgrade = *r.Upgrade
			return errUnchanged
		case r.State.Ended():
			return fmt.Errorf("mount %s is %s: there is nothing to upgrade: %w", m.id, r.State, errdefs.ErrFailedPrecondition)
		case r.State != lifecycle.Serving:
			return fmt.Errorf("mount %s is %s: upgrade it when it serves: %w", m.id, r.State, errdefs.ErrUnavailable)
		}
		r.Upgrade = &upgrade
		return nil
	})
	return upgrade, err
}

func (m *mount) abortUpgrade(upgradeID string) (store.Upgrade, error) {
	var upgrade store.Upgrade
	err := m.update(func(r *store.Record) error {
		switch {
		case r.Upgrade == nil || r.Upgrade.ID != upgradeID:
			return fmt.Errorf("upgrade %s of mount %s: %w", upgradeID, m.id, errdefs.ErrNotFound)
		case !r.Upgrade.Running():
			return fmt.Errorf("upgrade %s is over: %w", upgradeID, errdefs.ErrFailedPrecondition)
		case !r.Upgrade.Phase.Before(store.UpgradeHandingOver):
			return fmt.Errorf("upgrade %s is handing over already: %w", upgradeID, errdefs.ErrFailedPrecondition)
		}
		r.Upgrade.Aborted = true
		upgrade = *r.Upgrade
		return nil
	})
	return upgrade, err
}

// reach records a phase of the upgrade that runs, if one does; errAborted when
// it shall not go on.
func (m *mount) reach(phase store.UpgradePhase) error {
	return m.update(func(r *store.Record) error {
		if !r.Upgrade.Running() {
			return errUnchanged
		}
		if r.Upgrade.Aborted {
			return errAborted
		}
		r.Upgrade.Phase = phase
		return nil
	})
}

// adopt makes the settings of an upgrade those of the mount: its client has
// taken over. The record is that of an update.
func (m *mount) adopt(r *store.Record) error {
	if !r.Upgrade.Running() || r.Upgrade.Phase != store.UpgradeHandingOver {
		return nil
	}
	settings, err := m.resolve(*r, r.Upgrade.Inputs, r.Upgrade.Image)
	if err != nil {
		return err
	}
	r.Inputs, r.Image, r.SettingsHash = r.Upgrade.Inputs, r.Upgrade.Image, settings.Hash
	r.DeleteDelay, r.CleanCache = settings.DeleteDelay, settings.CleanCache
	r.Upgrade.Phase, r.Upgrade.ToVersion, r.Upgrade.Pause = store.UpgradeAdopted, r.Client.Version, m.pause
	return nil
}

// rollBack ends a running upgrade for this cause and goes on with the old
// client. It returns cause when there is no upgrade.
func (m *mount) rollBack(ctx context.Context, cause error) error {
	if !m.snapshot().Upgrade.Running() {
		return cause
	}
	if err := m.dropSuccessor(ctx); err != nil {
		return errors.Join(cause, err)
	}
	m.log.WarnContext(ctx, "upgrade rolled back", logkeys.Error, cause)
	return m.update(func(r *store.Record) error {
		if err := lifecycle.Check(r.State, lifecycle.Serving); err != nil {
			return err
		}
		r.Upgrade.End(store.UpgradeRolledBack, cause.Error())
		r.State, r.StateSince, r.Reason, r.Message = lifecycle.Serving, time.Now().UTC(), "", ""
		return nil
	})
}

// endUpgrade ends a running upgrade that failed; the mount goes on in its state.
func (m *mount) endUpgrade(cause error) error {
	return m.update(func(r *store.Record) error {
		if !r.Upgrade.Running() {
			return errUnchanged
		}
		r.Upgrade.End(store.UpgradeRolledBack, cause.Error())
		return nil
	})
}

// settle ends an upgrade that a change of the mount's state decides.
func settle(r *store.Record, to lifecycle.State, message string) {
	switch {
	case !r.Upgrade.Running(), to == lifecycle.HandingOver:
	case r.Upgrade.Phase == store.UpgradeAdopted:
		r.Upgrade.End(store.UpgradeCommitted, "")
	default:
		r.Upgrade.End(store.UpgradeRolledBack, cmp.Or(message, "the mount is "+string(to)))
	}
}

// defaultStallBudget is how long nobody may serve when the request says nothing.
const defaultStallBudget = 10 * time.Second

// stallBudget is how long one step of the hand-over that is due may take:
// limit, or less when it is an upgrade, which need not be now.
func (m *mount) stallBudget(limit time.Duration) time.Duration {
	upgrade := m.snapshot().Upgrade
	if !upgrade.Running() {
		return limit
	}
	return min(limit, cmp.Or(upgrade.StallBudget, defaultStallBudget))
}
