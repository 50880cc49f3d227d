package classic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// inspectTimeout bounds the first answer of a client that is looked at.
const inspectTimeout = 30 * time.Second

// volumeDataLimit bounds kubelet's vol_data.json, which has some 300 bytes.
const volumeDataLimit = 64 << 10

// Mount is a mount of the existing driver, as the node has it.
type Mount struct {
	Found
	MountPath   string
	DeviceMinor uint32
	// Kernel is what the mount table shows.
	Kernel     volume.KernelMount
	FileSystem string
	UUID       string
	Client     store.Client
	References []store.Reference
	// Inputs have everything but the configuration of this driver.
	Inputs volume.Inputs
	// Secret is the publish Secret as far as it could be read; nil when not.
	Secret map[string]string
}

// Inspect looks at a mount pod of the existing driver, without changing
// anything: its mount must answer. errdefs.ErrInvalidArgument for a pod that
// can never be adopted.
func (n *Node) Inspect(ctx context.Context, pod *corev1.Pod) (Mount, error) {
	found, err := Parse(pod)
	if err != nil {
		return Mount{}, err
	}
	m := Mount{Found: found, MountPath: filepath.Join(n.options.MountRoot, found.MountName)}
	entry, err := mountinfo.ByPath(m.MountPath)
	if err != nil {
		return Mount{}, err
	}
	if entry.FSType != kernelmount.FSType {
		return Mount{}, fmt.Errorf("%s shows a %s file system: %w", m.MountPath, entry.FSType, errdefs.ErrInvalidArgument)
	}
	m.DeviceMinor, m.Kernel = entry.Minor, kernelOf(entry, found.Options)
	m.FileSystem = strings.TrimPrefix(entry.Source, "JuiceFS:")
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	told, err := n.parts.Prober.Ready(ctx, m.MountPath)
	if err != nil {
		return Mount{}, err
	}
	m.UUID = told.UUID
	m.Client = store.Client{
		PodName: pod.Name, PodUID: string(pod.UID), Image: found.Image, StartedAt: pod.CreationTimestamp.UTC(),
		Mode: store.ModeClassic, Exchange: found.Exchange, SecretName: found.SecretName,
		Version: told.Version, SessionID: told.SessionID,
	}
	if !found.PassesDescriptors {
		m.Client.Exchange = ownExchange(string(pod.UID)) // Nobody but us looks there.
	}
	if m.References, err = n.references(entry, found.Targets); err != nil {
		return Mount{}, err
	}
	if m.Inputs, err = n.inputs(ctx, m.References); err != nil {
		return Mount{}, err
	}
	m.Secret = n.readSecret(ctx, m)
	return m, nil
}

// kernelOf reads from the mount table what volume.KernelMount says.
func kernelOf(entry mountinfo.Entry, options string) volume.KernelMount {
	kernel := volume.KernelMount{
		Source:             entry.Source,
		DefaultPermissions: slices.Contains(entry.SuperOptions, "default_permissions"),
		WritebackCache:     slices.Contains(strings.Split(options, ","), "writeback_cache"),
	}
	for option, flag := range map[string]uintptr{
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "noatime": unix.MS_NOATIME,
		"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
	} {
		if slices.Contains(entry.Options, option) || slices.Contains(entry.SuperOptions, option) {
			kernel.Flags |= flag
		}
	}
	for _, option := range entry.SuperOptions {
		if text, found := strings.CutPrefix(option, "max_read="); found {
			kernel.MaxRead, _ = strconv.Atoi(text) // 0 differs from whatever is wanted.
		}
	}
	return kernel
}

// references are the targets that the pod tells and the mount table confirms.
func (*Node) references(mount mountinfo.Entry, targets []string) ([]store.Reference, error) {
	shown, err := mountinfo.ByDevice(mount.Major, mount.Minor)
	if err != nil {
		return nil, err
	}
	var references []store.Reference
	for _, target := range targets {
		at := slices.IndexFunc(shown, func(e mountinfo.Entry) bool { return e.Path == target })
		if at < 0 {
			continue
		}
		handle, err := volumeHandle(target)
		if err != nil {
			return nil, err
		}
		references = append(references, store.Reference{
			VolumeID: handle, TargetPath: target, ReadOnly: shown[at].ReadOnly(), BindPath: strings.Trim(shown[at].Root, "/"),
			Pod: store.Pod{UID: store.PodOfTarget(target)}, Since: time.Now().UTC(),
		})
	}
	return references, nil
}

// volumeName is the last but one element of a target path of kubelet.
func volumeName(target string) string { return filepath.Base(filepath.Dir(target)) }

// volumeHandle reads what kubelet keeps beside a target.
func volumeHandle(target string) (string, error) {
	file, err := os.Open(filepath.Join(filepath.Dir(target), "vol_data.json"))
	if os.IsNotExist(err) {
		return volumeName(target), nil // As the existing driver's provisioner names them.
	}
	if err != nil {
		return "", fmt.Errorf("read the volume of target %s: %w", target, err)
	}
	defer func() { _ = file.Close() }()
	var data struct {
		VolumeHandle string `json:"volumeHandle"`
	}
	if err := json.NewDecoder(io.LimitReader(file, volumeDataLimit)).Decode(&data); err != nil {
		return "", fmt.Errorf("read the volume of target %s: %w", target, err)
	}
	return data.VolumeHandle, nil
}

// inputs are those of the first volume whose PersistentVolume is found.
func (n *Node) inputs(ctx context.Context, references []store.Reference) (volume.Inputs, error) {
	for _, reference := range references {
		pv, err := n.parts.Client.CoreV1().PersistentVolumes().Get(ctx, volumeName(reference.TargetPath), metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && pv.Spec.CSI == nil {
			continue
		}
		if err != nil {
			return volume.Inputs{}, fmt.Errorf("read volume %s: %w", volumeName(reference.TargetPath), mountpod.Native(err))
		}
		return volume.Inputs{
			VolumeID: pv.Spec.CSI.VolumeHandle, Attributes: maps.Clone(pv.Spec.CSI.VolumeAttributes),
			MountOptions: pv.Spec.MountOptions, StorageClass: pv.Spec.StorageClassName,
		}, nil
	}
	if len(references) == 0 {
		return volume.Inputs{}, nil
	}
	return volume.Inputs{VolumeID: references[0].VolumeID}, nil
}

// readSecret makes a publish Secret of the pod's own; nil when it is not there
// or may not be read.
func (n *Node) readSecret(ctx context.Context, m Mount) map[string]string {
	if m.SecretName == "" {
		return nil
	}
	secret, err := n.parts.Client.CoreV1().Secrets(n.options.Namespace).Get(ctx, m.SecretName, metav1.GetOptions{})
	if err != nil {
		n.parts.Log.WarnContext(ctx, "secret of a mount pod is not read: the next publish of the volume brings it",
			logkeys.Pod, m.Client.PodName, logkeys.Error, mountpod.Native(err))
		return nil
	}
	return m.SecretData(m.FileSystem, secret.Data)
}
