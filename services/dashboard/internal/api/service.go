// Package api answers the calls of dashboard.v1.
package api

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	corev1 "k8s.io/api/core/v1"

	dashboardv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1"
	"github.com/juicefs-csi/driver/services/dashboard/internal/access"
	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
)

// Service implements dashboardv1connect.DashboardServiceHandler.
type Service struct {
	Catalog        *catalog.Catalog
	Gate           *access.Gate
	Release        string
	MountNamespace string
	ReadOnly       bool
}

// GetServerInfo needs no rights: it is what the page shows before sign-in.
func (s *Service) GetServerInfo(context.Context, *connect.Request[dashboardv1.GetServerInfoRequest],
) (*connect.Response[dashboardv1.GetServerInfoResponse], error) {
	return connect.NewResponse(&dashboardv1.GetServerInfoResponse{
		Release: s.Release, MountNamespace: s.MountNamespace, ReadOnly: s.ReadOnly,
	}), nil
}

// ListAppPods needs the right to list the pods of the namespace, or of all.
func (s *Service) ListAppPods(ctx context.Context, request *connect.Request[dashboardv1.ListAppPodsRequest],
) (*connect.Response[dashboardv1.ListAppPodsResponse], error) {
	if err := s.Gate.ListPods(ctx, request.Header(), request.Msg.GetNamespace()); err != nil {
		return nil, toConnect(err)
	}
	if err := s.Catalog.Ready(ctx); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	all := s.Catalog.AppPods(request.Msg.GetNamespace())
	page, next, err := paginate(all, func(a catalog.AppPod) *corev1.Pod { return a.Pod },
		request.Msg.GetPageSize(), request.Msg.GetPageToken())
	if err != nil {
		return nil, toConnect(err)
	}
	response := &dashboardv1.ListAppPodsResponse{NextPageToken: next, Total: count(len(all))}
	for _, app := range page {
		response.Pods = append(response.Pods, s.appPod(app))
	}
	return connect.NewResponse(response), nil
}

// ListMountPods needs the right to list the pods of the mount namespace. Names
// of application pods are left out where the user may not list them.
func (s *Service) ListMountPods(ctx context.Context, request *connect.Request[dashboardv1.ListMountPodsRequest],
) (*connect.Response[dashboardv1.ListMountPodsResponse], error) {
	if err := s.Gate.ListPods(ctx, request.Header(), s.MountNamespace); err != nil {
		return nil, toConnect(err)
	}
	if err := s.Catalog.Ready(ctx); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	all := s.Catalog.MountPods(request.Msg.GetNode())
	page, next, err := paginate(all, func(p *corev1.Pod) *corev1.Pod { return p },
		request.Msg.GetPageSize(), request.Msg.GetPageToken())
	if err != nil {
		return nil, toConnect(err)
	}
	response := &dashboardv1.ListMountPodsResponse{NextPageToken: next, Total: count(len(all))}
	visible := s.visibility(ctx, request.Header())
	for _, pod := range page {
		response.Pods = append(response.Pods, s.mountPod(pod, visible))
	}
	return connect.NewResponse(response), nil
}

// visibility says of which namespaces the user may see pods, asking once for
// each.
func (s *Service) visibility(ctx context.Context, header http.Header) func(namespace string) bool {
	if s.Gate.ListPods(ctx, header, "") == nil {
		return func(string) bool { return true }
	}
	known := map[string]bool{}
	return func(namespace string) bool {
		allowed, ok := known[namespace]
		if !ok {
			allowed = s.Gate.ListPods(ctx, header, namespace) == nil
			known[namespace] = allowed
		}
		return allowed
	}
}
