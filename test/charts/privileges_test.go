package charts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// podSpecs finds the pods of the services, by the name of the workload.
func podSpecs(t *testing.T, objects []runtime.Object) map[string]corev1.PodSpec {
	t.Helper()
	specs := map[string]corev1.PodSpec{}
	for _, object := range objects {
		switch object := object.(type) {
		case *appsv1.DaemonSet:
			specs[object.Name] = object.Spec.Template.Spec
		case *appsv1.Deployment:
			specs[object.Name] = object.Spec.Template.Spec
		}
	}
	want := []string{"juicefs-csi-controller", "juicefs-csi-dashboard", "juicefs-csi-mountmgr", "juicefs-csi-node"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(specs))); diff != "" {
		t.Fatalf("workloads (-want +got):\n%s", diff)
	}
	return specs
}

// TestOnePrivilegedContainer: the mount manager makes all mounts; every other
// container has no capability and cannot gain one.
func TestOnePrivilegedContainer(t *testing.T) {
	var privileged []string
	for name, spec := range podSpecs(t, decode(t, render(t, umbrella, ""))) {
		for _, container := range spec.Containers {
			security := container.SecurityContext
			if security == nil || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
				t.Errorf("%s/%s: the root file system is writable", name, container.Name)
			}
			if security != nil && security.Privileged != nil && *security.Privileged {
				privileged = append(privileged, name+"/"+container.Name)
				continue
			}
			checkUnprivileged(t, name, spec, container)
		}
	}
	if diff := cmp.Diff([]string{"juicefs-csi-mountmgr/mountmgr"}, privileged); diff != "" {
		t.Errorf("privileged containers (-want +got):\n%s", diff)
	}
}

func checkUnprivileged(t *testing.T, name string, spec corev1.PodSpec, container corev1.Container) {
	t.Helper()
	security := container.SecurityContext
	if security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation {
		t.Errorf("%s/%s may gain privileges", name, container.Name)
	}
	if security.Capabilities == nil || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		len(security.Capabilities.Add) > 0 {
		t.Errorf("%s/%s has capabilities: %v", name, container.Name, security.Capabilities)
	}
	seccomp := security.SeccompProfile
	if seccomp == nil && spec.SecurityContext != nil {
		seccomp = spec.SecurityContext.SeccompProfile
	}
	if seccomp == nil || seccomp.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s/%s has no seccomp profile", name, container.Name)
	}
	for _, mount := range container.VolumeMounts {
		if mount.MountPropagation != nil {
			t.Errorf("%s/%s: mount propagation of %s", name, container.Name, mount.Name)
		}
	}
}

// TestHostAccess lists what each service sees of the node.
func TestHostAccess(t *testing.T) {
	specs := podSpecs(t, decode(t, render(t, umbrella, "")))
	want := map[string][]string{
		"juicefs-csi-controller": nil,
		"juicefs-csi-dashboard":  nil,
		"juicefs-csi-mountmgr": {
			"/run/juicefs-csi", "/var/jfsCache", "/var/lib/juicefs-csi", "/var/lib/juicefs/volume", "/var/lib/kubelet",
			"/var/run/juicefs-csi", "pid",
		},
		"juicefs-csi-node": {
			"/run/juicefs-csi/mountmgr", "/var/lib/kubelet/csi-plugins/csi.juicefs.com", "/var/lib/kubelet/plugins_registry",
		},
	}
	got := map[string][]string{}
	for name, spec := range specs {
		var access []string
		for flag, set := range map[string]bool{"pid": spec.HostPID, "network": spec.HostNetwork, "ipc": spec.HostIPC} {
			if set {
				access = append(access, flag)
			}
		}
		for _, volume := range spec.Volumes {
			if volume.HostPath != nil {
				access = append(access, volume.HostPath.Path)
			}
		}
		slices.Sort(access)
		got[name] = access
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("host access (-want +got):\n%s", diff)
	}
}

// TestPathsAreThoseOfTheHost: paths travel between the services and kubelet,
// so a directory has one path everywhere.
func TestPathsAreThoseOfTheHost(t *testing.T) {
	for _, values := range []string{"", "testdata/umbrella/values.yaml"} {
		for name, spec := range podSpecs(t, decode(t, render(t, umbrella, values))) {
			host := map[string]string{}
			for _, volume := range spec.Volumes {
				if volume.HostPath != nil {
					host[volume.Name] = volume.HostPath.Path
				}
			}
			for _, container := range spec.Containers {
				for _, mount := range container.VolumeMounts {
					if path, ok := host[mount.Name]; ok && path != mount.MountPath {
						t.Errorf("%s/%s: %s of the host is at %s", name, container.Name, path, mount.MountPath)
					}
				}
			}
		}
	}
}

// TestVaultSeesNoMount: a mount in its name space could hang the one process
// that must not.
func TestVaultSeesNoMount(t *testing.T) {
	spec := podSpecs(t, decode(t, render(t, umbrella, "")))["juicefs-csi-mountmgr"]
	for _, container := range spec.Containers {
		if container.Name != "fdvault" {
			continue
		}
		if len(container.VolumeMounts) != 1 || container.VolumeMounts[0].MountPath != "/run/juicefs-vault" {
			t.Errorf("volume mounts = %v, want /run/juicefs-vault", container.VolumeMounts)
		}
		return
	}
	t.Error("no container fdvault")
}

// TestTokens: who speaks to the Kubernetes API.
func TestTokens(t *testing.T) {
	objects := decode(t, render(t, umbrella, ""))
	spec := podSpecs(t, objects)["juicefs-csi-node"]
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("the node plugin gets a token")
	}
	bound := map[string]bool{}
	for _, object := range objects {
		switch object := object.(type) {
		case *rbacv1.RoleBinding:
			for _, subject := range object.Subjects {
				bound[subject.Name] = true
			}
		case *rbacv1.ClusterRoleBinding:
			for _, subject := range object.Subjects {
				bound[subject.Name] = true
			}
		}
	}
	want := []string{"juicefs-csi-controller-sa", "juicefs-csi-dashboard-sa", "juicefs-csi-mountmgr-sa"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(bound))); diff != "" {
		t.Errorf("service accounts with rights (-want +got):\n%s", diff)
	}
}

// TestDangerousRights lists every right that reaches beyond the driver.
func TestDangerousRights(t *testing.T) {
	want := []string{
		"Role juicefs-csi-controller: create secrets",
		"Role juicefs-csi-controller: update secrets",
		"Role juicefs-csi-mountmgr: create pods",
		"Role juicefs-csi-mountmgr: delete pods",
		"Role juicefs-csi-mountmgr: patch pods",
		"juicefs-csi-controller: get secrets",
	}
	var got []string
	for _, object := range decode(t, render(t, umbrella, "")) {
		switch object := object.(type) {
		case *rbacv1.Role:
			got = append(got, dangerous("Role "+object.Name, object.Rules)...)
		case *rbacv1.ClusterRole:
			got = append(got, dangerous(object.Name, object.Rules)...)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rights (-want +got):\n%s", diff)
	}
}

// dangerous picks all rights on Secrets, on what runs in pods or on kubelet, on
// RBAC, and writes to pods.
func dangerous(role string, rules []rbacv1.PolicyRule) []string {
	var found []string
	for _, rule := range rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				reads := slices.Contains([]string{"get", "list", "watch"}, verb)
				if resource == "secrets" || resource == "*" || verb == "*" || verb == "impersonate" ||
					slices.Contains([]string{"pods/exec", "pods/attach", "nodes/proxy", "serviceaccounts/token"}, resource) ||
					slices.Contains(rule.APIGroups, "rbac.authorization.k8s.io") && !reads ||
					resource == "pods" && !reads {
					found = append(found, role+": "+verb+" "+resource)
				}
			}
		}
	}
	return found
}

// TestSelectors: the labels that select pods are part of the interface, and
// cannot be changed by an upgrade of a Deployment or DaemonSet.
func TestSelectors(t *testing.T) {
	for _, object := range decode(t, render(t, umbrella, "testdata/umbrella/values.yaml")) {
		var name string
		var selector, labels map[string]string
		switch object := object.(type) {
		case *appsv1.DaemonSet:
			name, selector, labels = object.Name, object.Spec.Selector.MatchLabels, object.Spec.Template.Labels
		case *appsv1.Deployment:
			name, selector, labels = object.Name, object.Spec.Selector.MatchLabels, object.Spec.Template.Labels
		default:
			continue
		}
		if diff := cmp.Diff(map[string]string{"app": name}, selector); diff != "" {
			t.Errorf("selector of %s (-want +got):\n%s", name, diff)
		}
		for key := range labels {
			if strings.Contains(key, "version") || key == "helm.sh/chart" {
				t.Errorf("label %s of the pods of %s changes with every release", key, name)
			}
		}
	}
}
