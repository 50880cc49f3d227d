package api

import (
	"errors"
	"math"
	"strings"

	"connectrpc.com/connect"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/inventory"
	dashboardv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1"
	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
)

func (s *Service) appPod(app catalog.AppPod) *dashboardv1.AppPod {
	mountPods := s.Catalog.MountPodsOf(app.Pod)
	problem := inventory.Problem(app.Pod)
	if problem == "" {
		problem = indirectProblem(app, mountPods)
	}
	pod := &dashboardv1.AppPod{
		Namespace: app.Namespace,
		Name:      app.Name,
		Uid:       string(app.UID),
		Status:    inventory.Status(app.Pod),
		Problem:   problem,
		CreatedAt: timestamppb.New(app.CreationTimestamp.Time),
		Node:      app.Spec.NodeName,
		CsiNode:   objectName(s.Catalog.CSINode(app.Spec.NodeName)),
	}
	for _, v := range app.Volumes {
		pod.Volumes = append(pod.Volumes, &dashboardv1.Volume{Claim: v.Claim, Volume: v.Name})
	}
	for _, m := range mountPods {
		pod.MountPods = append(pod.MountPods, objectName(m))
	}
	return pod
}

// indirectProblem is the cause that lies outside of the pod itself.
func indirectProblem(app catalog.AppPod, mountPods []*corev1.Pod) string {
	if app.Status.Phase != corev1.PodPending && app.Status.Phase != corev1.PodRunning {
		return ""
	}
	for _, v := range app.Volumes {
		if v.Name == "" {
			return "claim " + v.Claim + " is not bound to a volume"
		}
	}
	for _, m := range mountPods {
		if p := inventory.Problem(m); p != "" {
			return "mount pod " + m.Name + ": " + p
		}
	}
	return ""
}

func (s *Service) mountPod(pod *corev1.Pod, visible func(namespace string) bool) *dashboardv1.MountPod {
	m := &dashboardv1.MountPod{
		Namespace: pod.Namespace,
		Name:      pod.Name,
		Uid:       string(pod.UID),
		Status:    inventory.Status(pod),
		Problem:   inventory.Problem(pod),
		CreatedAt: timestamppb.New(pod.CreationTimestamp.Time),
		Node:      pod.Spec.NodeName,
		UniqueId:  inventory.UniqueID(pod),
	}
	if len(pod.Spec.Containers) > 0 {
		m.Image = pod.Spec.Containers[0].Image
	}
	for _, app := range s.Catalog.AppPodsOf(pod) {
		if visible(app.Namespace) {
			m.AppPods = append(m.AppPods, objectName(app))
		}
	}
	return m
}

func objectName(pod *corev1.Pod) *dashboardv1.ObjectName {
	if pod == nil {
		return nil
	}
	return &dashboardv1.ObjectName{Namespace: pod.Namespace, Name: pod.Name}
}

func count(n int) int32 { return int32(min(n, math.MaxInt32)) }

// toConnect is the edge where an error gets its code.
func toConnect(err error) error {
	for _, known := range []struct {
		sentinel error
		code     connect.Code
	}{
		{errdefs.ErrInvalidArgument, connect.CodeInvalidArgument},
		{errdefs.ErrUnauthenticated, connect.CodeUnauthenticated},
		{errdefs.ErrPermissionDenied, connect.CodePermissionDenied},
		{errdefs.ErrUnavailable, connect.CodeUnavailable},
	} {
		if errors.Is(err, known.sentinel) {
			// The code says what the sentinel would say again.
			text := strings.TrimSuffix(err.Error(), ": "+known.sentinel.Error())
			return connect.NewError(known.code, errors.New(text))
		}
	}
	return connect.NewError(connect.CodeInternal, err)
}
