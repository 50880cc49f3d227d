package devcluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func TestKubeletConfig(t *testing.T) {
	node := planNodes(2)[1]
	data, err := yaml.Marshal(kubeletConfig(layout{dir: "/d/-x"}, node))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cgroupRoot: /juicefs-devcluster-x/node-2\n",
		"failCgroupV1: false\n",
		"failSwapOn: false\n",
		"mode: Webhook\n",
		"clientCAFile: /d/-x/pki/ca.crt\n",
		"tlsCertFile: /d/-x/pki/node-2-serving.crt\n",
		"address: 10.77.0.12\n",
		"containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("kubelet configuration lacks %q:\n%s", want, data)
		}
	}
}

func TestRenderCNI(t *testing.T) {
	var config struct {
		Plugins []struct {
			Type string
			IPAM struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	if err := json.Unmarshal([]byte(renderCNI(planNodes(1)[0])), &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Plugins) != 2 || config.Plugins[0].Type != "bridge" || config.Plugins[1].Type != "portmap" {
		t.Fatalf("plugins are %+v", config.Plugins)
	}
	if got := config.Plugins[0].IPAM.Ranges[0][0].Subnet; got != "10.78.1.0/24" {
		t.Errorf("pods get addresses from %s", got)
	}
}

func TestContainerdConfig(t *testing.T) {
	for _, want := range []string{
		`sandbox_image = "` + pauseImageName + `"`, "restrict_oom_score_adj = true",
		`bin_dir = "` + cniDir + `"`, `address = "/run/containerd/containerd.sock"`,
	} {
		if !strings.Contains(containerdConfig, want) {
			t.Errorf("containerd configuration lacks %q", want)
		}
	}
	if strings.HasSuffix(pauseImageName, ":latest") {
		t.Error("kubelet would pull the pause image")
	}
}

func TestAPIServerFlags(t *testing.T) {
	flags := apiServerFlags(layout{dir: "/d"})
	for _, want := range []string{
		"--allow-privileged=true", "--authorization-mode=Node,RBAC", "--audit-log-path=/d/logs/audit.log",
		"--kubelet-preferred-address-types=InternalIP", "--service-cluster-ip-range=10.79.0.0/16",
	} {
		if !slices.Contains(flags, want) {
			t.Errorf("API server flags lack %s", want)
		}
	}
	var policy struct {
		OmitStages []string
		Rules      []struct{ Level string }
	}
	if err := yaml.Unmarshal([]byte(auditPolicy), &policy); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(policy.OmitStages, []string{"RequestReceived", "ResponseStarted"}) || len(policy.Rules) != 2 {
		t.Errorf("audit policy is %+v", policy)
	}
}

func TestPKI(t *testing.T) {
	c := &Cluster{layout: layout{dir: t.TempDir()}, state: state{Nodes: planNodes(1)}}
	if err := c.layout.makeDirs(); err != nil {
		t.Fatal(err)
	}
	if err := c.createPKI(); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.layout.pki("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the CA does not parse")
	}
	for file, want := range map[string]struct {
		host, user, group string
		usage             x509.ExtKeyUsage
	}{
		"apiserver":      {host: ControlPlaneIP, user: "kube-apiserver", usage: x509.ExtKeyUsageServerAuth},
		"node-1-serving": {host: "10.77.0.11", user: "system:node:node-1", group: "system:nodes", usage: x509.ExtKeyUsageServerAuth},
		"node-1":         {user: "system:node:node-1", group: "system:nodes", usage: x509.ExtKeyUsageClientAuth},
		"admin":          {user: "admin", group: "system:masters", usage: x509.ExtKeyUsageClientAuth},
		"kube-proxy":     {user: "system:kube-proxy", usage: x509.ExtKeyUsageClientAuth},
	} {
		pair, err := tls.LoadX509KeyPair(c.layout.pki(file+".crt"), c.layout.pki(file+".key"))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		verify := x509.VerifyOptions{Roots: roots, DNSName: want.host, KeyUsages: []x509.ExtKeyUsage{want.usage}}
		if _, err := pair.Leaf.Verify(verify); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		subject := pair.Leaf.Subject
		if subject.CommonName != want.user || (want.group != "" && !slices.Contains(subject.Organization, want.group)) {
			t.Errorf("%s belongs to %s", file, subject)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://10.77.0.1:6443" || string(config.CAData) != string(ca) {
		t.Errorf("the kubeconfig leads to %s", config.Host)
	}
}
