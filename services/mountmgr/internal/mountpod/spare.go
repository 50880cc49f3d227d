package mountpod

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// SpareLabel marks a mount pod that no mount has taken yet; its value is the
// key of the pod's shape.
const SpareLabel = "csi.juicefs.com/spare"

// evictAnnotation lets the cluster autoscaler remove a node although a pod of no
// controller is there.
const evictAnnotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"

// What an idle spare reserves of the node.
const (
	idleCPU    = "10m"
	idleMemory = "16Mi"
)

// shapeKeyBytes is how many bytes of a digest name a shape.
const shapeKeyBytes = 10

// ShapeKey names what the pods of two mounts have in common when a spare made
// for one of them fits the other: all but names, references and the amounts of
// CPU and memory, which a running pod can be given. It is empty when no spare can
// become such a pod:
//   - Kubernetes refuses to change the quality of service class of a pod, and an
//     idle pod of the class Guaranteed would hold back all that it will ever need;
//   - pods in the network of the host cannot share a port of theirs;
//   - texts that name the mount point are those of one mount.
func ShapeKey(s Spec) (string, error) {
	shape := s.Settings.Pod
	wanted, err := effective(s)
	if err != nil {
		return "", err
	}
	if shape.HostNetwork && shape.MetricsPort != 0 || class(wanted) != class(idle(wanted)) {
		return "", nil
	}
	pod, err := BuildSpare(Spec{LauncherDir: s.LauncherDir, Settings: s.Settings}, "")
	if err != nil {
		return "", err
	}
	pod.Spec.Containers[0].Resources = unresizable(wanted)
	raw, err := json.Marshal(pod)
	if err != nil {
		return "", fmt.Errorf("encode shape of mount pod: %w", err)
	}
	if bytes.Contains(raw, []byte(volume.MountPoint)) {
		return "", nil // It is of one mount.
	}
	digest := sha256.Sum256(raw)
	return hex.EncodeToString(digest[:shapeKeyBytes]), nil
}

// BuildSpare returns the pod of s as a spare of the shape key: without anything
// that is of one mount, and with small requests.
func BuildSpare(s Spec, key string) (*corev1.Pod, error) {
	wanted, err := effective(s)
	if err != nil {
		return nil, err
	}
	pod, err := Build(s)
	if err != nil {
		return nil, err
	}
	pod.Labels = make(map[string]string)
	maps.Copy(pod.Labels, s.Settings.Pod.Labels)
	for _, ofMount := range []string{UniqueIDLabel, HashLabel, MountIDLabel} {
		delete(pod.Labels, ofMount)
	}
	pod.Labels[NameLabel], pod.Labels[SpareLabel] = NameValue, key
	pod.Annotations = map[string]string{evictAnnotation: "true"}
	maps.Copy(pod.Annotations, s.Settings.Pod.Annotations)
	pod.Spec.Containers[0].Resources = idle(wanted)
	return pod, nil
}

// effective returns the resources of s as the API server completes them: a
// request that is not given is the limit.
func effective(s Spec) (corev1.ResourceRequirements, error) {
	r, err := resourceRequirements(s.Settings.Pod.Resources)
	if err != nil {
		return r, err
	}
	requests := maps.Clone(r.Limits)
	if requests == nil {
		requests = make(corev1.ResourceList)
	}
	maps.Copy(requests, r.Requests)
	return corev1.ResourceRequirements{Requests: requests, Limits: r.Limits}, nil
}

// resizable are the resources that a running pod can be given.
func resizable() map[corev1.ResourceName]resource.Quantity {
	return map[corev1.ResourceName]resource.Quantity{
		corev1.ResourceCPU: resource.MustParse(idleCPU), corev1.ResourceMemory: resource.MustParse(idleMemory),
	}
}

// idle returns r with the requests of a pod that does nothing.
func idle(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	requests := maps.Clone(r.Requests)
	for name, small := range resizable() {
		if wanted, requested := requests[name]; requested && wanted.Cmp(small) > 0 {
			requests[name] = small
		}
	}
	return corev1.ResourceRequirements{Requests: requests, Limits: r.Limits}
}

// unresizable returns r with every amount that can be changed made zero. What is
// limited or requested at all cannot be changed.
func unresizable(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	without := func(list corev1.ResourceList) corev1.ResourceList {
		list = maps.Clone(list)
		for name := range resizable() {
			if _, there := list[name]; there {
				list[name] = resource.Quantity{}
			}
		}
		return list
	}
	return corev1.ResourceRequirements{Requests: without(r.Requests), Limits: without(r.Limits)}
}

// class is the quality of service class that Kubernetes gives a pod with one
// container.
func class(r corev1.ResourceRequirements) corev1.PodQOSClass {
	some, all := false, true
	for name := range resizable() {
		requested, limit := r.Requests[name], r.Limits[name]
		some = some || !requested.IsZero() || !limit.IsZero()
		all = all && !limit.IsZero() && requested.Cmp(limit) == 0
	}
	switch {
	case all:
		return corev1.PodQOSGuaranteed
	case some:
		return corev1.PodQOSBurstable
	}
	return corev1.PodQOSBestEffort
}

// CreateSpare makes a spare of the shape key that spec has, and returns its uid.
func (p *Pods) CreateSpare(ctx context.Context, spec Spec, key string) (string, error) {
	return p.create(ctx, "spare mount pod", spec, func(spec Spec) (*corev1.Pod, error) { return BuildSpare(spec, key) })
}

// Label gives a pod that was a spare the labels and annotations of the mount of
// spec. A pod that is gone is no error.
func (p *Pods) Label(ctx context.Context, pod store.Client, spec Spec) error {
	patch := map[string]any{"metadata": map[string]any{
		"uid": pod.PodUID, "labels": replacing(SpareLabel, labels(spec)), "annotations": replacing(evictAnnotation, annotations(spec)),
	}}
	if err := p.patch(ctx, pod.PodName, types.MergePatchType, patch); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("label mount pod %s/%s: %w", p.namespace, pod.PodName, Native(err))
	}
	return nil
}

// replacing is a merge patch that sets values, and removes key unless it is one
// of them.
func replacing(key string, values map[string]string) map[string]*string {
	patch := map[string]*string{key: nil}
	for key, value := range values {
		patch[key] = &value
	}
	return patch
}

// Resize gives a pod that was a spare the CPU and memory of spec, without a
// restart. errdefs.ErrUnavailable may pass; with any other error the pod keeps
// what it has. errdefs.ErrNotImplemented when the API server knows no resize,
// as before Kubernetes 1.33.
func (p *Pods) Resize(ctx context.Context, pod store.Client, spec Spec) error {
	wanted, err := effective(spec)
	if err != nil {
		return err
	}
	for _, list := range []corev1.ResourceList{wanted.Requests, wanted.Limits} {
		maps.DeleteFunc(list, func(name corev1.ResourceName, _ resource.Quantity) bool {
			_, can := resizable()[name]
			return !can
		})
	}
	if len(wanted.Requests) == 0 {
		return nil
	}
	container := map[string]any{"name": volume.ContainerName, "resources": wanted}
	patch := map[string]any{"spec": map[string]any{"containers": []any{container}}}
	err = p.patch(ctx, pod.PodName, types.StrategicMergePatchType, patch, "resize")
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		err = fmt.Errorf("%w (%w)", err, errdefs.ErrNotImplemented) // No handler has answered.
	case apierrors.IsNotFound(err):
		err = fmt.Errorf("%w (%w)", err, errdefs.ErrNotFound)
	default:
		err = Native(err)
	}
	return fmt.Errorf("resize mount pod %s/%s: %w", p.namespace, pod.PodName, err)
}

func (p *Pods) patch(ctx context.Context, name string, kind types.PatchType, patch any, subresource ...string) error {
	raw, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = p.client.CoreV1().Pods(p.namespace).Patch(ctx, name, kind, raw, metav1.PatchOptions{}, subresource...)
	return err
}

// Unresized explains why a pod does not have the resources that it was given;
// empty when it has, or may soon.
func Unresized(pod *corev1.Pod) (reason, message string) {
	at := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending && c.Status == corev1.ConditionTrue
	})
	if at < 0 {
		return "", ""
	}
	return pod.Status.Conditions[at].Reason, pod.Status.Conditions[at].Message
}
