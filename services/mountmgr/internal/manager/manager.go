// Package manager makes, shares, watches, repairs and removes the JuiceFS
// mounts of one node. Each mount has a goroutine of its own that walks it
// through package lifecycle; the manager finds the mount that a target wants.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/cachedir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Options are the fixed facts of the node and the installation.
type Options struct {
	Node string
	// KubeletDir bounds target paths.
	KubeletDir string
	// LauncherDir is the host directory that holds jfs-launch.
	LauncherDir string
	// CacheRoots are where cache directories of the host are prepared.
	CacheRoots cachedir.Roots
	// BootID names this boot of the kernel: no mount survives it.
	BootID string
	// KernelRelease is part of what decides the INIT request of a connection.
	KernelRelease string
	// Mode is where new clients run.
	Mode store.ClientMode
	// ClassicPods runs every client as the existing driver does.
	ClassicPods bool
	// ReconcileInterval paces the looks at the pods of the node; 0 for 10 s.
	ReconcileInterval time.Duration
	Defaults          volume.Defaults
	// Config returns the present configuration of the driver.
	Config func() (volume.Config, error)
}

// Parts are what the manager works with; it owns none of them.
type Parts struct {
	Store   *store.Store
	Secrets *store.Secrets
	Vault   *custody.Client
	Host    Host
	Prober  *probe.Prober
	Spares  *spare.Pool
	// Classic runs classic clients; nil where there shall be none.
	Classic *classic.Node
	Log     *slog.Logger
	// Pods may be nil: references of pods that are gone are kept then.
	Pods PodLister
	// Facts and Node may be nil: no claim and no label is known then.
	Facts Facts
	Node  Node
	// Metrics may be nil.
	Metrics *metrics.Metrics
	// Events may be nil.
	Events Events
}

// Manager is safe for concurrent use.
type Manager struct {
	Parts
	options Options
	watch   *broadcaster
	pauses  pauses
	formats formats

	running sync.WaitGroup

	// cleanups is told of caches to clean.
	cleanups chan struct{}

	// mu is never held while anything is written or waited for. A mount's own
	// mutex is not taken under it.
	mu     sync.Mutex
	mounts map[string]*mount
	index  index
	// adoption lets one mount pod be adopted at a time; mu is not held for it.
	adoption sync.Mutex
	// adopting are the uids of mount pods that are looked at, or are not ours to
	// adopt.
	adopting map[string]bool
	// busy are the targets that a call works on.
	busy map[string]bool
	// lifetime is the context of the mounts' goroutines; nil before Run.
	lifetime context.Context //nolint:containedctx // It is the life of goroutines that a call starts but must not end.
}

// New returns a manager without mounts; Run brings the recorded ones back.
func New(options Options, parts Parts) *Manager {
	return &Manager{
		Parts: parts, options: options, watch: newBroadcaster(), cleanups: make(chan struct{}, 1),
		mounts: make(map[string]*mount), adopting: make(map[string]bool), busy: make(map[string]bool), index: newIndex(),
	}
}

// PublishRequest asks for a volume at a target.
type PublishRequest struct {
	VolumeID     string
	TargetPath   string
	Attributes   map[string]string
	Secret       map[string]string
	MountOptions []string
	ReadOnly     bool
	AccessMode   store.AccessMode
	Pod          store.Pod
}

// Publish makes the volume visible at the target and blocks until a client
// serves it. It returns the mount, and whether it was made for this call.
func (m *Manager) Publish(ctx context.Context, request PublishRequest) (store.Record, bool, error) {
	began := time.Now()
	if err := m.checkTarget(request.TargetPath); err != nil {
		return store.Record{}, false, err
	}
	unlock, err := m.lockTarget(request.TargetPath)
	if err != nil {
		return store.Record{}, false, err
	}
	defer unlock()
	reference := store.Reference{
		VolumeID: request.VolumeID, TargetPath: request.TargetPath, ReadOnly: request.ReadOnly,
		AccessMode: request.AccessMode, Pod: request.Pod, Since: time.Now().UTC(),
	}
	found, err := m.lookUp(ctx, request)
	if err != nil {
		return store.Record{}, false, err
	}
	served, err := m.acquire(request, found, reference)
	if err != nil {
		return store.Record{}, false, err
	}
	record, err := m.show(ctx, served.mount, request, reference)
	if err != nil && !served.repeated {
		m.release(served.mount, request.TargetPath)
	}
	if err != nil {
		return store.Record{}, false, err
	}
	m.Metrics.Published(served.created, time.Since(began))
	return record, served.created, nil
}

// show waits until the mount serves and attaches the target to it, again when
// the connection was lost meanwhile.
func (m *Manager) show(
	ctx context.Context, served *mount, request PublishRequest, reference store.Reference,
) (store.Record, error) {
	var lost []uint32
	for {
		record, err := served.awaitServing(ctx)
		if err != nil {
			return store.Record{}, err
		}
		lost = append(lost, record.PreviousMinors()...)
		reference := recorded(record, reference)
		if err = served.runVolumeStages(ctx, request, reference); err == nil {
			err = m.attach(ctx, record, reference, lost...)
		}
		if served.snapshot().DeviceMinor == record.DeviceMinor {
			return record, err
		}
		lost = append(lost, record.DeviceMinor)
	}
}

// release drops a reference whose target could not be attached.
func (m *Manager) release(served *mount, target string) {
	if err := served.dropReference(target); err != nil {
		m.Log.Error("drop reference", logkeys.MountID, served.id, logkeys.TargetPath, target, logkeys.Error, err)
	}
}

// acquired is the mount that a target gets.
type acquired struct {
	*mount
	// created tells that it was made for this target.
	created bool
	// repeated tells that the target had its reference before this call, which
	// must not take it away again.
	repeated bool
}

// acquire finds or makes the mount and records the reference with it.
func (m *Manager) acquire(request PublishRequest, found known, reference store.Reference) (acquired, error) {
	repeated, err := m.claim(reference)
	if err != nil || repeated != nil {
		return acquired{mount: repeated, repeated: true}, err
	}
	served, created, err := m.provide(request, found, reference)
	if err != nil {
		m.forget(reference.TargetPath, nil)
		return acquired{}, err
	}
	return acquired{mount: served, created: created}, nil
}

// claim takes the target for the caller, so that no other volume conflicts with
// it from then on, or returns the mount that it has already.
func (m *Manager) claim(reference store.Reference) (*mount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lifetime == nil {
		return nil, fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	}
	repeated, err := m.index.admit(reference)
	if err == nil && repeated == nil {
		m.index.add(reference, nil)
	}
	return repeated, err
}

// provide joins the reference to a mount with its settings, or makes one.
func (m *Manager) provide(request PublishRequest, found known, reference store.Reference) (*mount, bool, error) {
	if !found.complete {
		return nil, false, fmt.Errorf("target_path %s has just lost its mount: publish it again: %w", request.TargetPath, errdefs.ErrAborted)
	}
	inputs, settings, err := m.resolveShared(m.inputs(request, found))
	if err == nil {
		err = m.checkClassic(settings)
	}
	if err != nil {
		return nil, false, err
	}
	reference.BindPath, reference.StagesDue = settings.BindPath, len(settings.VolumeStages) > 0
	for {
		candidates := m.sharers(settings.UniqueID)
		for _, candidate := range candidates {
			joined, err := m.join(candidate, settings, reference, request)
			if err != nil || joined {
				return candidate, false, err
			}
		}
		made, err := m.create(inputs, settings, reference, candidates)
		if made != nil || err != nil {
			return made, true, err
		}
	}
}

// conflict says why wanted cannot be beside existing, or in its place: what a
// running pod sees at its target is never changed, and a volume of
// ReadWriteOncePod has one target.
func conflict(existing, wanted store.Reference) error {
	switch {
	case existing.TargetPath == wanted.TargetPath && existing.VolumeID != wanted.VolumeID:
		return fmt.Errorf("target_path %s shows volume %s already: unpublish it first: %w",
			wanted.TargetPath, existing.VolumeID, errdefs.ErrAlreadyExists)
	case existing.TargetPath == wanted.TargetPath && !sameAccess(existing, wanted):
		return fmt.Errorf("target_path %s shows volume %s already with another access (%s): unpublish it first: %w",
			wanted.TargetPath, existing.VolumeID, describeAccess(existing), errdefs.ErrAlreadyExists)
	case existing.TargetPath != wanted.TargetPath && existing.VolumeID == wanted.VolumeID &&
		(existing.AccessMode == store.SingleNodeSingleWriter || wanted.AccessMode == store.SingleNodeSingleWriter):
		return fmt.Errorf("volume %s has access mode %s and is published at %s: it can have one target only: %w",
			wanted.VolumeID, store.SingleNodeSingleWriter, existing.TargetPath, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func sameAccess(existing, wanted store.Reference) bool {
	known := existing.AccessMode != ""
	return existing.ReadOnly == wanted.ReadOnly && (!known || existing.AccessMode == wanted.AccessMode)
}

func describeAccess(reference store.Reference) string {
	if reference.ReadOnly {
		return string(reference.AccessMode) + ", read-only"
	}
	return string(reference.AccessMode)
}

func (m *Manager) inputs(request PublishRequest, found known) volume.Inputs {
	return volume.Inputs{
		VolumeID: request.VolumeID, VolumeName: found.volume.Name, Attributes: request.Attributes, MountOptions: request.MountOptions,
		ReadOnly: request.ReadOnly, Secret: request.Secret,
		Claim: found.volume.Claim, StorageClass: found.volume.StorageClass, ClassTemplatesSecret: found.volume.ClassTemplatesSecret,
		Node:   found.node,
		App:    found.app,
		Config: found.config, Defaults: m.options.Defaults,
	}
}

// create records a new mount and starts its goroutine; nil when there are other
// mounts to join than the candidates, which the caller has tried.
func (m *Manager) create(
	inputs volume.Inputs, settings volume.Settings, reference store.Reference, candidates []*mount,
) (*mount, error) {
	id := randomID()
	secret := inputs.Secret
	inputs.Secret = nil
	now := time.Now().UTC()
	made := newMount(m, store.Record{
		ID: id, State: lifecycle.Pending, StateSince: now, CreatedAt: now, BootID: m.options.BootID,
		Inputs: inputs, UniqueID: settings.UniqueID, ShareMode: settings.ShareMode, SettingsHash: settings.Hash,
		FileSystem: settings.FileSystem, ReadOnly: settings.ReadOnly,
		DeleteDelay: settings.DeleteDelay, CleanCache: settings.CleanCache,
		MountPath:  filepath.Join(m.options.Defaults.MountRoot, pathName(settings.UniqueID)+"-"+randomSuffix()),
		References: []store.Reference{reference},
	})
	// Others find it at once, and wait until it is on disk.
	made.mu.Lock()
	defer made.mu.Unlock()
	if !m.announce(made, candidates) {
		return nil, nil
	}
	if err := m.commit(made, m.Secrets.Put(id, secret)); err != nil {
		return nil, err
	}
	return made, nil
}

// commit puts a mount on disk that was announced, and runs it. Its mutex is held.
// err is what has failed before.
func (m *Manager) commit(made *mount, err error) error {
	if err == nil {
		err = m.Store.PutMount(made.record)
	}
	if err != nil {
		err = errors.Join(err, m.Secrets.Delete(made.id))
		made.record.State, made.failure = lifecycle.Gone, err
		m.retire(made, made.record)
		return err
	}
	m.launchMount(made, made.record.Clone())
	return nil
}

// Unpublish detaches the target and drops its reference. It never waits for a
// client. An unknown target is no error.
func (m *Manager) Unpublish(ctx context.Context, target string) error {
	if err := m.checkTarget(target); err != nil {
		return err
	}
	unlock, err := m.lockTarget(target)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.detach(ctx, target); err != nil {
		return err
	}
	held := m.byTarget(target)
	if held == nil {
		return nil
	}
	return held.dropReference(target)
}

// Usage reads statfs through a probe process. errdefs.ErrNotFound for a path
// that is no target; context.DeadlineExceeded when the client does not answer.
func (m *Manager) Usage(ctx context.Context, volumeID, path string) (probe.Usage, error) {
	held := m.byTarget(path)
	if held == nil || !held.shows(volumeID, path) {
		return probe.Usage{}, fmt.Errorf("volume %s is not published at %s: %w", volumeID, path, errdefs.ErrNotFound)
	}
	return m.Prober.Usage(ctx, held.id, path)
}

// Get returns a mount by id.
func (m *Manager) Get(id string) (store.Record, error) {
	found, err := m.find(id)
	if err != nil {
		return store.Record{}, err
	}
	return found.snapshot(), nil
}

// List returns all mounts in the order of their ids.
func (m *Manager) List() []store.Record {
	records := make([]store.Record, 0)
	for _, each := range m.all() {
		if record := each.snapshot(); record.State != lifecycle.Gone {
			records = append(records, record)
		}
	}
	sort.Slice(records, func(i, j int) bool { return records[i].ID < records[j].ID })
	return records
}

// Held returns how many connections the vault holds a copy of.
func (m *Manager) Held(ctx context.Context) (int, error) {
	held, err := m.Vault.List(ctx)
	return len(held), err
}

// IdleSpares returns how many spare mount pods wait for a mount.
func (m *Manager) IdleSpares() int { return m.Spares.Idle() }

// Ready fails with errdefs.ErrUnavailable until Run has taken custody of all
// recorded mounts.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lifetime == nil {
		return fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func (m *Manager) all() []*mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*mount, 0, len(m.mounts))
	for _, each := range m.mounts {
		all = append(all, each)
	}
	return all
}

// byTarget returns the mount of a target, nil when there is none.
func (m *Manager) byTarget(target string) *mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.index.targets[target]; found != nil {
		return found.mount
	}
	return nil
}

// podChanged tells the mount that a pod belongs to. A pod of no mount is a
// left-over of ours and is deleted.
func (m *Manager) podChanged(ctx context.Context, pod *corev1.Pod) {
	if !ours(pod) {
		m.classicPodChanged(ctx, pod)
		return
	}
	if m.Spares.PodChanged(pod) {
		return
	}
	owner := m.ownerOf(pod)
	if owner != nil {
		owner.podChanged(pod)
	}
	// A pod is recorded before it is made; one that is not any more was replaced
	// by a mount manager that died before it could delete it.
	if (owner == nil || !owner.owns(pod.Name)) && pod.DeletionTimestamp == nil {
		if err := m.Host.Delete(ctx, stray(pod), 0); err != nil {
			m.Log.WarnContext(ctx, "delete stray mount pod", logkeys.Pod, pod.Name, logkeys.Error, err)
		}
	}
}

func (m *Manager) podRemoved(pod *corev1.Pod) {
	if !ours(pod) {
		m.leaveAdoption(pod)
	} else if m.Spares.PodRemoved(pod) {
		return
	}
	if owner := m.ownerOf(pod); owner != nil {
		owner.podRemoved(string(pod.UID))
	}
}

func (m *Manager) checkTarget(target string) error {
	root := strings.TrimSuffix(m.options.KubeletDir, "/") + "/"
	switch {
	case target == "":
		return fmt.Errorf("target_path is empty: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(target), filepath.Clean(target) != target, slices.Contains(strings.Split(target, "/"), ".."):
		return fmt.Errorf("target_path %s is not an absolute, clean path: %w", target, errdefs.ErrInvalidArgument)
	case !strings.HasPrefix(target, root):
		return fmt.Errorf("target_path %s is not below the kubelet directory %s: set --kubelet-dir to what kubelet uses: %w",
			target, m.options.KubeletDir, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (m *Manager) lockTarget(target string) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[target] {
		return nil, fmt.Errorf("another call works on target_path %s: %w", target, errdefs.ErrAborted)
	}
	m.busy[target] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, target)
	}, nil
}

// BootID reads the name of this boot of the kernel.
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
