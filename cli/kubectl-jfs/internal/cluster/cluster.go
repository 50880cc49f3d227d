// Package cluster reads what the commands show from the Kubernetes API.
package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"

	"github.com/juicefs-csi/driver/libs/inventory"
)

// Flags say which cluster to talk to, as kubectl's flags of the same name.
type Flags struct {
	Kubeconfig string
	Context    string
	Namespace  string
}

// Cluster is a connection with the user's rights.
type Cluster struct {
	Client kubernetes.Interface
	// Namespace is the flag, else the one of the kubeconfig context.
	Namespace string
}

// Connect reads the kubeconfig. It does not talk to the API server.
func Connect(flags Flags) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = flags.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: flags.Context}
	overrides.Context.Namespace = flags.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	return &Cluster{Client: client, Namespace: namespace}, nil
}

// MountPods lists the mount pods of a namespace.
func (c *Cluster) MountPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return c.pods(ctx, namespace, inventory.MountPodSelector)
}

// Pods lists the pods of a namespace, of all when it is empty.
func (c *Cluster) Pods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return c.pods(ctx, namespace, "")
}

func (c *Cluster) pods(ctx context.Context, namespace, selector string) ([]*corev1.Pod, error) {
	pods, err := list[corev1.Pod](ctx, selector, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.Client.CoreV1().Pods(namespace).List(ctx, o)
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", namespaceText(namespace), err)
	}
	return pods, nil
}

// Volumes lists all that is needed to say which of the namespace's pods use
// JuiceFS. StorageClasses only widen the answer to claims that are not bound,
// so a user who may not read them still gets one.
func (c *Cluster) Volumes(ctx context.Context, namespace, driver string) (inventory.Lookup, error) {
	claims, err := list[corev1.PersistentVolumeClaim](ctx, "", func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, o)
	})
	if err != nil {
		return inventory.Lookup{}, fmt.Errorf("list PersistentVolumeClaims of %s: %w", namespaceText(namespace), err)
	}
	volumes, err := list[corev1.PersistentVolume](ctx, "", func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.Client.CoreV1().PersistentVolumes().List(ctx, o)
	})
	if err != nil {
		return inventory.Lookup{}, fmt.Errorf("list PersistentVolumes: %w", err)
	}
	classes, err := list[storagev1.StorageClass](ctx, "", func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.Client.StorageV1().StorageClasses().List(ctx, o)
	})
	if err != nil && !apierrors.IsForbidden(err) {
		return inventory.Lookup{}, fmt.Errorf("list StorageClasses: %w", err)
	}
	return newLookup(driver, claims, volumes, classes), nil
}

func newLookup(driver string, claims []*corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume,
	classes []*storagev1.StorageClass,
) inventory.Lookup {
	claimByName := make(map[[2]string]*corev1.PersistentVolumeClaim, len(claims))
	for _, c := range claims {
		claimByName[[2]string{c.Namespace, c.Name}] = c
	}
	volumeByName := make(map[string]*corev1.PersistentVolume, len(volumes))
	for _, v := range volumes {
		volumeByName[v.Name] = v
	}
	ours := map[string]bool{}
	for _, c := range classes {
		ours[c.Name] = c.Provisioner == driver
	}
	return inventory.Lookup{
		Driver: driver,
		Claim: func(namespace, name string) *corev1.PersistentVolumeClaim {
			return claimByName[[2]string{namespace, name}]
		},
		Volume:       func(name string) *corev1.PersistentVolume { return volumeByName[name] },
		JuiceFSClass: func(name string) bool { return ours[name] },
	}
}

// list reads all pages of a list.
func list[T any](ctx context.Context, selector string, fetch pager.ListPageFunc) ([]*T, error) {
	var items []*T
	err := pager.New(fetch).EachListItem(ctx, metav1.ListOptions{LabelSelector: selector}, func(o runtime.Object) error {
		item, ok := any(o).(*T)
		if !ok {
			return fmt.Errorf("unexpected object %T", o)
		}
		items = append(items, item)
		return nil
	})
	return items, err
}

func namespaceText(namespace string) string {
	if namespace == metav1.NamespaceAll {
		return "all namespaces"
	}
	return "namespace " + namespace
}
