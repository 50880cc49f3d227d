package mountpod

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Pods is the API server's view of the mount pods of one node in one
// namespace. It is safe for concurrent use.
type Pods struct {
	client    kubernetes.Interface
	namespace string
	node      string
	podsDir   string
	launcher  Launcher
}

// NewPods does not speak to the API server yet. kubeletDir is kubelet's root
// directory.
func NewPods(client kubernetes.Interface, namespace, node, kubeletDir string) *Pods {
	return &Pods{client: client, namespace: namespace, node: node, podsDir: filepath.Join(kubeletDir, "pods")}
}

// WithLauncher is a copy whose pods get jfs-launch from elsewhere than the host
// directory of their spec.
func (p *Pods) WithLauncher(source Launcher) *Pods {
	other := *p
	other.launcher = source
	return &other
}

// Create makes the pod of spec, whose node, namespace and launcher are those of
// p, and returns its uid.
func (p *Pods) Create(ctx context.Context, spec Spec) (string, error) {
	return p.create(ctx, "mount pod", spec, Build)
}

func (p *Pods) create(ctx context.Context, what string, spec Spec, build func(Spec) (*corev1.Pod, error)) (string, error) {
	spec.Node, spec.Namespace, spec.Launcher = p.node, p.namespace, p.launcher
	pod, err := build(spec)
	if err != nil {
		return "", err
	}
	made, err := p.client.CoreV1().Pods(p.namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create %s %s/%s: %w", what, p.namespace, pod.Name, Native(err))
	}
	return string(made.UID), nil
}

// Connect waits until the jfs-launch of a pod greets, or ctx ends.
func (p *Pods) Connect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	return launcher.Connect(ctx, p.podsDir, client.PodUID, client.RunAsUser)
}

// Reconnect is Connect for a jfs-launch that must be listening already.
func (p *Pods) Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	return launcher.Reconnect(ctx, p.podsDir, client.PodUID, client.RunAsUser)
}

// Delete deletes the pod of a client, by its name and, where known, uid; a
// grace of 0 does not wait for its end. A pod that is gone is no error.
func (p *Pods) Delete(ctx context.Context, pod store.Client, grace time.Duration) error {
	seconds := int64(grace / time.Second)
	options := metav1.DeleteOptions{GracePeriodSeconds: &seconds}
	if pod.PodUID != "" {
		precondition := types.UID(pod.PodUID)
		options.Preconditions = &metav1.Preconditions{UID: &precondition}
	}
	err := p.client.CoreV1().Pods(p.namespace).Delete(ctx, pod.PodName, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mount pod %s/%s: %w", p.namespace, pod.PodName, Native(err))
	}
	return nil
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value,omitempty"`
}

// Annotate sets annotations of a client's pod one by one, or removes those
// whose value is nil; others are left alone. A pod of the same name that is
// another is not touched: errdefs.ErrInvalidArgument. A pod that is gone is no
// error.
func (p *Pods) Annotate(ctx context.Context, pod store.Client, annotations map[string]*string) error {
	patch, err := json.Marshal(annotationPatch(pod.PodUID, annotations))
	if err != nil {
		return fmt.Errorf("encode annotations of mount pod %s: %w", pod.PodName, err)
	}
	_, err = p.client.CoreV1().Pods(p.namespace).Patch(ctx, pod.PodName, types.JSONPatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate mount pod %s/%s: %w", p.namespace, pod.PodName, Native(err))
	}
	return nil
}

func annotationPatch(uid string, annotations map[string]*string) []operation {
	patch := []operation{{Op: "test", Path: "/metadata/uid", Value: uid}}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		path := "/metadata/annotations/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
		if value := annotations[key]; value != nil {
			patch = append(patch, operation{Op: "add", Path: path, Value: *value})
			continue
		}
		// What is not there cannot be removed: it is made first.
		patch = append(patch, operation{Op: "add", Path: path, Value: "-"}, operation{Op: "remove", Path: path})
	}
	return patch
}

// Watch calls changed for every mount pod of the node now and whenever it
// changes, and removed when one is gone, until ctx ends. It returns at once
// with an error when it cannot begin; API failures later are retried.
func (p *Pods) Watch(ctx context.Context, changed, removed func(*corev1.Pod)) error {
	factory := informers.NewSharedInformerFactoryWithOptions(p.client, 0,
		informers.WithNamespace(p.namespace),
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = NameLabel + "=" + NameValue
			options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.node).String()
		}))
	informer := factory.Core().V1().Pods().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { call(changed, object) },
		UpdateFunc: func(_, object any) { call(changed, object) },
		DeleteFunc: func(object any) { call(removed, object) },
	})
	if err != nil {
		return fmt.Errorf("watch mount pods: %w", err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

func call(f func(*corev1.Pod), object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if pod, ok := object.(*corev1.Pod); ok {
		f(pod)
	}
}

// trim drops what nobody here reads, so that many pods cost little memory.
func trim(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		pod.ManagedFields = nil
		pod.Spec.Volumes = nil
		pod.Spec.Tolerations = nil
	}
	return object, nil
}

func phaseFailure(pod *corev1.Pod) (reason, message string) {
	reason, message = pod.Status.Reason, pod.Status.Message
	for _, status := range pod.Status.ContainerStatuses {
		if ended := status.State.Terminated; ended != nil {
			return ended.Reason, ended.Message
		}
	}
	if reason == "" {
		reason = string(pod.Status.Phase)
	}
	return reason, message
}

// Native maps an error of the API server to the sentinel that callers test.
func Native(err error) error {
	var sentinel error
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		sentinel = errdefs.ErrPermissionDenied
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		sentinel = errdefs.ErrInvalidArgument
	case apierrors.IsAlreadyExists(err):
		sentinel = errdefs.ErrAlreadyExists
	default:
		sentinel = errdefs.ErrUnavailable
	}
	return fmt.Errorf("%w (%w)", err, sentinel)
}
