// Package catalog keeps what the dashboard shows: pods and JuiceFS volumes,
// watched from the Kubernetes API and indexed by what is asked for.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/juicefs-csi/driver/libs/inventory"
)

// Catalog answers from memory. Objects that it returns are shared and must not
// be changed.
type Catalog struct {
	factory informers.SharedInformerFactory
	pods    cache.SharedIndexInformer
	claims  cache.SharedIndexInformer
	volumes cache.SharedIndexInformer
	classes cache.SharedIndexInformer
	synced  atomic.Bool
	lookup  inventory.Lookup
}

// AppPod is a pod that uses JuiceFS.
type AppPod struct {
	*corev1.Pod

	Volumes []inventory.Volume
}

// New makes a catalog of the driver's volumes; mount pods are those of
// mountNamespace. Run fills it.
func New(client kubernetes.Interface, driver, mountNamespace string) (*Catalog, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	c := &Catalog{
		factory: factory,
		pods:    factory.Core().V1().Pods().Informer(),
		claims:  factory.Core().V1().PersistentVolumeClaims().Informer(),
		volumes: factory.Core().V1().PersistentVolumes().Informer(),
		classes: factory.Storage().V1().StorageClasses().Informer(),
	}
	err := errors.Join(
		c.pods.SetTransform(trimPod),
		c.claims.SetTransform(trimMeta),
		c.volumes.SetTransform(trimMeta),
		c.classes.SetTransform(trimMeta),
		c.pods.AddIndexers(indexers(mountNamespace)),
	)
	if err != nil {
		return nil, fmt.Errorf("set up informers: %w", err)
	}
	c.lookup = inventory.Lookup{
		Driver: driver,
		Claim: func(namespace, name string) *corev1.PersistentVolumeClaim {
			return get[corev1.PersistentVolumeClaim](c.claims, namespace+"/"+name)
		},
		Volume: func(name string) *corev1.PersistentVolume { return get[corev1.PersistentVolume](c.volumes, name) },
		JuiceFSClass: func(name string) bool {
			class := get[storagev1.StorageClass](c.classes, name)
			return class != nil && class.Provisioner == driver
		},
	}
	return c, nil
}

// Run watches until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	c.factory.Start(ctx.Done())
	defer c.factory.Shutdown()
	if cache.WaitForCacheSync(ctx.Done(), c.pods.HasSynced, c.claims.HasSynced, c.volumes.HasSynced, c.classes.HasSynced) {
		c.synced.Store(true)
	}
	<-ctx.Done()
	return nil
}

// Ready fails until everything was listed once.
func (c *Catalog) Ready(context.Context) error {
	if !c.synced.Load() {
		return errors.New("the first lists from Kubernetes are not complete")
	}
	return nil
}

// AppPods returns the pods of a namespace, or of all when it is empty, that use
// JuiceFS volumes, newest first.
func (c *Catalog) AppPods(namespace string) []AppPod {
	var apps []AppPod
	for _, pod := range c.by(roleIndex, appRole(namespace)) {
		if volumes := c.lookup.Volumes(pod); len(volumes) > 0 {
			apps = append(apps, AppPod{Pod: pod, Volumes: volumes})
		}
	}
	slices.SortFunc(apps, func(a, b AppPod) int { return Compare(a.Pod, b.Pod) })
	return apps
}

// MountPods returns the mount pods of a node, or of all when it is empty,
// newest first.
func (c *Catalog) MountPods(node string) []*corev1.Pod {
	pods := c.by(roleIndex, mountRole(node))
	slices.SortFunc(pods, Compare)
	return pods
}

// MountPodsOf returns the mount pods that serve a pod, newest first.
func (c *Catalog) MountPodsOf(pod *corev1.Pod) []*corev1.Pod {
	pods := c.by(referenceIndex, string(pod.UID))
	slices.SortFunc(pods, Compare)
	return pods
}

// AppPodsOf returns the pods that a mount pod serves and that exist, newest
// first.
func (c *Catalog) AppPodsOf(mountPod *corev1.Pod) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, uid := range inventory.References(mountPod) {
		pods = append(pods, c.by(uidIndex, uid)...)
	}
	slices.SortFunc(pods, Compare)
	return pods
}

// CSINode returns the node plugin's pod of a node, nil when there is none.
func (c *Catalog) CSINode(node string) *corev1.Pod {
	if pods := c.by(roleIndex, csiNodeRole(node)); node != "" && len(pods) > 0 {
		return slices.MinFunc(pods, Compare)
	}
	return nil
}

// Compare orders pods newest first, those of the same second by name.
func Compare(a, b *corev1.Pod) int {
	return cmp.Or(
		b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// by returns a slice of the caller.
func (c *Catalog) by(index, value string) []*corev1.Pod {
	objects, err := c.pods.GetIndexer().ByIndex(index, value)
	if err != nil { // only an index that was never added
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(objects))
	for _, object := range objects {
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods
}

func get[T any](informer cache.SharedIndexInformer, key string) *T {
	object, exists, err := informer.GetStore().GetByKey(key)
	if err != nil || !exists {
		return nil
	}
	if item, ok := object.(*T); ok {
		return item
	}
	return nil
}
