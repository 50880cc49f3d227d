package devcluster

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfigs writes one kubeconfig for each user of the API server,
// with certificates inside, so that a kubeconfig can be copied.
func (l layout) writeKubeconfigs(nodes []Node) error {
	users := []string{"admin", "controller-manager", "scheduler", "kube-proxy"}
	for _, node := range nodes {
		users = append(users, node.Name)
	}
	ca, err := os.ReadFile(l.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("read CA: %w", err)
	}
	for _, user := range users {
		cert, err := os.ReadFile(l.pki(user + ".crt"))
		if err != nil {
			return fmt.Errorf("read certificate of %s: %w", user, err)
		}
		key, err := os.ReadFile(l.pki(user + ".key"))
		if err != nil {
			return fmt.Errorf("read key of %s: %w", user, err)
		}
		data, err := clientcmd.Write(renderKubeconfig(user, ca, cert, key))
		if err != nil {
			return fmt.Errorf("encode kubeconfig of %s: %w", user, err)
		}
		if err := os.WriteFile(l.kubeconfig(user), data, 0o600); err != nil {
			return fmt.Errorf("write kubeconfig of %s: %w", user, err)
		}
	}
	return nil
}

func renderKubeconfig(user string, ca, cert, key []byte) clientcmdapi.Config {
	const name = "juicefs-devcluster"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{
		Server:                   fmt.Sprintf("https://%s:%d", ControlPlaneIP, APIServerPort),
		CertificateAuthorityData: ca,
	}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = name
	return *config
}
