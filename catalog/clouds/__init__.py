"""The accounts of cloud platforms that endpoints name, and the addresses of those platforms by region."""

from catalog.clouds.accounts import NO_ACCOUNT, CloudAccount, address_of, checked_account_field

__all__ = ["NO_ACCOUNT", "CloudAccount", "address_of", "checked_account_field"]
