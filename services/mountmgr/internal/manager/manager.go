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
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Options are the fixed facts of the node and the installation.
type Options struct {
	Node string
	// NodeLabels are what mountPodPatch node selectors look at.
	NodeLabels map[string]string
	// KubeletDir bounds target paths.
	KubeletDir string
	// LauncherDir is the host directory that holds jfs-launch.
	LauncherDir string
	// BootID names this boot of the kernel: no mount survives it.
	BootID string
	// KernelRelease is part of what decides the INIT request of a connection.
	KernelRelease string
	Defaults      volume.Defaults
	// ClassicPods runs every client as the existing driver does.
	ClassicPods bool
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
	// Classic runs classic clients; nil where there shall be none.
	Classic *classic.Node
	Log     *slog.Logger
	// Metrics may be nil.
	Metrics *metrics.Metrics
}

// Manager is safe for concurrent use.
type Manager struct {
	Parts
	options Options
	watch   *broadcaster
	pauses  pauses

	running sync.WaitGroup

	mu     sync.Mutex
	mounts map[string]*mount
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
		Parts: parts, options: options, watch: newBroadcaster(),
		mounts: make(map[string]*mount), adopting: make(map[string]bool), busy: make(map[string]bool),
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
	served, err := m.acquire(request, reference) //nolint:contextcheck // A mount outlives the call that it is made for.
	if err != nil {
		return store.Record{}, false, err
	}
	record, err := show(ctx, served.mount, reference)
	if err != nil && !served.repeated {
		m.release(served.mount, request.TargetPath)
	}
	if err != nil {
		return store.Record{}, false, err
	}
	served.mirrorReferences(ctx, request.TargetPath)
	m.Metrics.Published(served.created, time.Since(began))
	return record, served.created, nil
}

// show waits until the mount serves and attaches the target to it.
func show(ctx context.Context, served *mount, reference store.Reference) (store.Record, error) {
	record, err := served.awaitServing(ctx)
	if err != nil {
		return store.Record{}, err
	}
	err = kernelmount.Attach(record.MountPath, record.DeviceMinor, reference.TargetPath, reference.ReadOnly)
	return record, err
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
func (m *Manager) acquire(request PublishRequest, reference store.Reference) (acquired, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lifetime == nil {
		return acquired{}, fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	}
	repeated, err := m.admit(reference)
	if err != nil {
		return acquired{}, err
	}
	if repeated != nil {
		return acquired{mount: repeated, repeated: true}, nil
	}
	inputs, err := m.inputs(request)
	if err != nil {
		return acquired{}, err
	}
	settings, err := volume.Resolve(inputs)
	if err != nil {
		return acquired{}, err
	}
	for _, candidate := range m.mounts {
		joined, err := candidate.join(settings, reference)
		if err == nil && joined {
			err = candidate.completeAdoption(request.Secret)
		}
		if err != nil || joined {
			return acquired{mount: candidate}, err
		}
	}
	made, err := m.create(inputs, settings, reference)
	return acquired{mount: made, created: true}, err
}

// admit compares a wanted reference with those that are there. It returns the
// mount that the target has already: kubelet repeats calls. It runs under m.mu.
func (m *Manager) admit(wanted store.Reference) (*mount, error) {
	for _, candidate := range m.mounts {
		for _, existing := range candidate.snapshot().References {
			if err := conflict(existing, wanted); err != nil {
				return nil, err
			}
			if existing.TargetPath == wanted.TargetPath {
				return candidate, nil
			}
		}
	}
	return nil, nil
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

func (m *Manager) inputs(request PublishRequest) (volume.Inputs, error) {
	config, err := m.options.Config()
	if err != nil {
		return volume.Inputs{}, fmt.Errorf("driver configuration: %w", err)
	}
	return volume.Inputs{
		VolumeID: request.VolumeID, Attributes: request.Attributes, MountOptions: request.MountOptions,
		ReadOnly: request.ReadOnly, Secret: request.Secret,
		Node:   volume.Object{Name: m.options.Node, Labels: m.options.NodeLabels},
		App:    volume.Object{Namespace: request.Pod.Namespace, Name: request.Pod.Name},
		Config: config, Defaults: m.options.Defaults,
	}, nil
}

// create records a new mount and starts its goroutine. It runs under m.mu.
func (m *Manager) create(inputs volume.Inputs, settings volume.Settings, reference store.Reference) (*mount, error) {
	id := randomID()
	if err := m.Secrets.Put(id, inputs.Secret); err != nil {
		return nil, err
	}
	inputs.Secret = nil
	now := time.Now().UTC()
	record := store.Record{
		ID: id, State: lifecycle.Pending, StateSince: now, CreatedAt: now, BootID: m.options.BootID,
		Inputs: inputs, UniqueID: settings.UniqueID, ShareMode: settings.ShareMode, SettingsHash: settings.Hash,
		FileSystem: settings.FileSystem, ReadOnly: settings.ReadOnly, BindPath: settings.BindPath,
		MountPath:  filepath.Join(m.options.Defaults.MountRoot, pathName(settings.UniqueID)+"-"+randomSuffix()),
		References: []store.Reference{reference},
	}
	if err := m.Store.PutMount(record); err != nil {
		return nil, errors.Join(err, m.Secrets.Delete(id))
	}
	made := newMount(m, record)
	m.adopt(made)
	return made, nil
}

// adopt takes a mount in and runs it. It runs under m.mu.
func (m *Manager) adopt(made *mount) {
	m.mounts[made.id] = made
	m.watch.changed(made.snapshot())
	lifetime := m.lifetime
	m.running.Go(func() {
		made.run(lifetime)
		if record := made.snapshot(); record.State == lifecycle.Gone {
			m.mu.Lock()
			delete(m.mounts, made.id)
			m.mu.Unlock()
		}
	})
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
	if err := kernelmount.Remove(target); err != nil {
		return err
	}
	m.mu.Lock()
	held := m.byTarget(target)
	m.mu.Unlock()
	if held == nil {
		return nil
	}
	if err := held.dropReference(target); err != nil {
		return err
	}
	held.mirrorReferences(ctx, target)
	return nil
}

// Usage reads statfs through a probe process. errdefs.ErrNotFound for a path
// that is no target; context.DeadlineExceeded when the client does not answer.
func (m *Manager) Usage(ctx context.Context, volumeID, path string) (probe.Usage, error) {
	m.mu.Lock()
	held := m.byTarget(path)
	m.mu.Unlock()
	if held == nil || !held.shows(volumeID, path) {
		return probe.Usage{}, fmt.Errorf("volume %s is not published at %s: %w", volumeID, path, errdefs.ErrNotFound)
	}
	return m.Prober.Usage(ctx, path)
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

// byTarget runs under m.mu.
func (m *Manager) byTarget(target string) *mount {
	for _, candidate := range m.mounts {
		if candidate.references(target) {
			return candidate
		}
	}
	return nil
}

// podChanged tells the mount that a pod belongs to. A pod of no mount is a
// left-over of ours and is deleted.
func (m *Manager) podChanged(ctx context.Context, pod *corev1.Pod) {
	id := pod.Labels[mountpod.MountIDLabel]
	if id == "" {
		m.classicPodChanged(ctx, pod)
		return
	}
	m.mu.Lock()
	owner := m.mounts[id]
	m.mu.Unlock()
	if owner != nil {
		owner.podChanged(pod)
	}
	// A pod is recorded before it is made; one that is not any more was replaced
	// by a mount manager that died before it could delete it.
	if (owner == nil || !owner.owns(pod.Name)) && pod.DeletionTimestamp == nil {
		if err := m.Host.Delete(ctx, store.Client{PodName: pod.Name, PodUID: string(pod.UID)}, 0); err != nil {
			m.Log.WarnContext(ctx, "delete stray mount pod", logkeys.Pod, pod.Name, logkeys.Error, err)
		}
	}
}

func (m *Manager) podRemoved(pod *corev1.Pod) {
	m.mu.Lock()
	owner := m.mounts[pod.Labels[mountpod.MountIDLabel]]
	m.mu.Unlock()
	if owner == nil {
		owner = m.byPod(pod.Name)
	}
	m.mu.Lock()
	delete(m.adopting, string(pod.UID))
	m.mu.Unlock()
	if owner != nil {
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
