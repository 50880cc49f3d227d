// Package provisioner makes PersistentVolumes for claims and removes their
// directories, for the provisioner library of Kubernetes.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/deletion"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

const fsType = "juicefs"

// Remover removes the directory of a volume; see deletion.Remover.
type Remover interface {
	Remove(ctx context.Context, v deletion.Volume) error
}

// Provisioner makes and deletes volumes.
type Provisioner struct {
	Client       kubernetes.Interface
	Installation installation.Installation
	Remover      Remover
	// Metrics counts failures; nil for none.
	Metrics *Metrics
}

// Metrics are counters with the names of the existing driver.
type Metrics struct {
	provisionErrors prometheus.Counter
	deleteErrors    prometheus.Counter
}

// NewMetrics registers the counters; node is the value of their label
// node_name.
func NewMetrics(registry prometheus.Registerer, node string) *Metrics {
	registry = prometheus.WrapRegistererWith(prometheus.Labels{"node_name": node}, registry)
	metrics := &Metrics{
		provisionErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_provision_errors", Help: "Volumes that could not be provisioned, each try counted.",
		}),
		deleteErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "juicefs_volume_del_errors", Help: "Volumes that could not be deleted, each try counted.",
		}),
	}
	registry.MustRegister(metrics.provisionErrors, metrics.deleteErrors)
	return metrics
}

// Provision returns the PersistentVolume for a claim. It creates nothing: the
// directory comes with the first mount. All that a mount will need is checked
// here, so that a wrong Secret or parameter is an event of the claim, not of a
// pod that hangs.
func (p *Provisioner) Provision(
	ctx context.Context, options controller.ProvisionOptions,
) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	pv, err := p.provision(ctx, options)
	if err != nil {
		if p.Metrics != nil {
			p.Metrics.provisionErrors.Inc()
		}
		return nil, controller.ProvisioningFinished, err
	}
	return pv, controller.ProvisioningFinished, nil
}

func (p *Provisioner) provision(ctx context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, error) {
	pattern := options.StorageClass.Parameters[volume.AttributePathPattern]
	if err := checkClaim(options.PVC, pattern); err != nil {
		return nil, err
	}
	objects, err := p.objects(ctx, options)
	if err != nil {
		return nil, err
	}
	class, err := resolveClass(options.StorageClass.Parameters, options.StorageClass.MountOptions, options.PVName, objects)
	if err != nil {
		return nil, err
	}
	if err := class.place(pattern, options.PVName); err != nil {
		return nil, err
	}
	capacity := options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	class.attributes[volume.AttributeCapacity] = strconv.FormatInt(capacity.Value(), 10)
	if err := p.check(ctx, options, class); err != nil {
		return nil, err
	}
	return p.persistentVolume(options, class), nil
}

// checkClaim refuses what no volume of this driver can give.
func checkClaim(claim *corev1.PersistentVolumeClaim, pattern string) error {
	if claim.Spec.Selector != nil {
		return fmt.Errorf("spec.selector of the claim is not supported for volumes that are made for it: %w", errdefs.ErrInvalidArgument)
	}
	if claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil {
		return fmt.Errorf("spec.dataSource of the claim is not supported yet: %w", errdefs.ErrInvalidArgument)
	}
	readOnly := !slices.ContainsFunc(claim.Spec.AccessModes, func(mode corev1.PersistentVolumeAccessMode) bool {
		return mode != corev1.ReadOnlyMany
	})
	if readOnly && pattern == "" {
		return fmt.Errorf("access mode ReadOnlyMany would give an empty volume that nobody can fill; it needs a StorageClass with %s: %w",
			volume.AttributePathPattern, errdefs.ErrInvalidArgument)
	}
	return nil
}

// objects fetches the node when a template refers to it.
func (p *Provisioner) objects(ctx context.Context, options controller.ProvisionOptions) (objects, error) {
	found := objects{claim: options.PVC}
	needsNode := slices.ContainsFunc(options.StorageClass.MountOptions, usesNode)
	for _, text := range options.StorageClass.Parameters {
		needsNode = needsNode || usesNode(text)
	}
	if !needsNode || options.SelectedNodeName == "" {
		return found, nil
	}
	node, err := p.Client.CoreV1().Nodes().Get(ctx, options.SelectedNodeName, metav1.GetOptions{})
	if err != nil {
		return objects{}, fmt.Errorf("get node %s for the templates of the StorageClass: %w", options.SelectedNodeName, err)
	}
	found.node = node
	return found, nil
}

// check derives the settings of a mount as the node will.
func (p *Provisioner) check(ctx context.Context, options controller.ProvisionOptions, class class) error {
	if class.publish == nil {
		return fmt.Errorf("StorageClass parameters %s and %s must name the Secret of the file system: %w",
			publishName, publishNamespace, errdefs.ErrInvalidArgument)
	}
	secret, err := p.secret(ctx, class.publish)
	if err != nil {
		return err
	}
	inputs, err := p.Installation.Inputs()
	if err != nil {
		return err
	}
	inputs.VolumeID = options.PVName
	inputs.Attributes = class.attributes
	inputs.MountOptions = class.mountOptions
	inputs.Secret = secret
	inputs.StorageClass = options.StorageClass.Name
	inputs.Claim = volume.Object{
		Namespace: options.PVC.Namespace, Name: options.PVC.Name,
		Labels: options.PVC.Labels, Annotations: options.PVC.Annotations,
	}
	if _, err := volume.Resolve(inputs); err != nil {
		return fmt.Errorf("StorageClass %s with Secret %s/%s: %w",
			options.StorageClass.Name, class.publish.Namespace, class.publish.Name, err)
	}
	return nil
}

func (p *Provisioner) secret(ctx context.Context, reference *corev1.SecretReference) (map[string]string, error) {
	secret, err := p.Client.CoreV1().Secrets(reference.Namespace).Get(ctx, reference.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Secret %s/%s, which the StorageClass names: %w",
			reference.Namespace, reference.Name, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("get Secret %s/%s: %w", reference.Namespace, reference.Name, err)
	}
	values := make(map[string]string, len(secret.Data))
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}

func (p *Provisioner) persistentVolume(options controller.ProvisionOptions, class class) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if options.StorageClass.ReclaimPolicy != nil {
		reclaim = *options.StorageClass.ReclaimPolicy
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: reclaim,
			AccessModes:                   options.PVC.Spec.AccessModes,
			VolumeMode:                    options.PVC.Spec.VolumeMode,
			MountOptions:                  class.mountOptions,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver:                    p.Installation.DriverName,
				VolumeHandle:              options.PVName,
				FSType:                    fsType,
				VolumeAttributes:          class.attributes,
				NodePublishSecretRef:      class.publish,
				ControllerExpandSecretRef: class.expand,
			}},
		},
	}
}

// Delete removes the directory of a volume that is released. It succeeds
// without removing anything while another volume has the same directory.
func (p *Provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	err := p.delete(ctx, pv)
	var ignored *controller.IgnoredError
	if err != nil && !errors.As(err, &ignored) && p.Metrics != nil {
		p.Metrics.deleteErrors.Inc()
	}
	return err
}

func (p *Provisioner) delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	source := pv.Spec.CSI
	if source == nil || source.Driver != p.Installation.DriverName {
		return &controller.IgnoredError{Reason: "the volume is not one of driver " + p.Installation.DriverName}
	}
	if source.VolumeAttributes[volume.AttributeSubPath] == "" {
		return fmt.Errorf("volume %s has no attribute %s, so nothing tells its directory; remove it by hand and the volume with it: %w",
			pv.Name, volume.AttributeSubPath, errdefs.ErrFailedPrecondition)
	}
	if source.NodePublishSecretRef == nil {
		return fmt.Errorf("volume %s names no nodePublishSecretRef: %w", pv.Name, errdefs.ErrFailedPrecondition)
	}
	shared, err := p.sharesDirectory(ctx, pv)
	if err != nil || shared {
		return err
	}
	secret, err := p.secret(ctx, source.NodePublishSecretRef)
	if err != nil {
		return err
	}
	return p.Remover.Remove(ctx, deletion.VolumeOf(pv, secret))
}

// sharesDirectory says whether another volume of the same file system has the
// same directory, as pathPattern allows. A volume inside of the directory is an
// error: its data would go too. A directory with the volume's own name is its
// own, which saves the list of all volumes. The list is not from a cache: it
// decides about data.
func (p *Provisioner) sharesDirectory(ctx context.Context, pv *corev1.PersistentVolume) (bool, error) {
	if pv.Spec.CSI.VolumeAttributes[volume.AttributeSubPath] == pv.Name {
		return false, nil
	}
	list, err := p.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list volumes to see whether another one has the directory of %s: %w", pv.Name, err)
	}
	return shared(pv, list.Items)
}
